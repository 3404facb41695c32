"""Reading YAML from people and from other machines: every fault becomes one line, and no input takes for ever.

And writing it, so that every reader gets what was written.
"""

import re
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from mlcl.errors import MlclError

_MAX_DEPTH = 100  # a config of ours has eight levels
_MAX_VALUES = 1_000_000  # with aliases written out: nine lines of nine aliases each stand for 9 ** 9 values
# What PyYAML 6 raises, beside its own errors, for tags without a value, numbers of thousands of digits and thousands
# of open brackets.
_OTHER_ERRORS = (ValueError, IndexError, AttributeError, KeyError, TypeError, RecursionError, OverflowError)


class _Loader(yaml.SafeLoader):
    """SafeLoader without dates: jsonargparse has none either, and a run may be called 2026-11-22."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Puts each text in quotes that a reader would take for something else: PyYAML's, ours or jsonargparse's."""

    def _text(self, text: str) -> yaml.ScalarNode:
        """In double quotes where there are line breaks, which readers of other quotes may change."""
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper._text)
# Some defaults of Lightning's are enumerations (Timer.interval), which YAML does not know.
_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(str(member.value)))
# jsonargparse has other patterns for numbers: 1e-3 is one there, and text for PyYAML, which wants a point in it.
_LIKE_A_NUMBER = re.compile(r"[-+.]?[\d_.:]+([eE][-+]?\d+)?$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _LIKE_A_NUMBER, list("-+.0123456789"))


def dump(content: Any) -> str:
    """Plain values as YAML, with the keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read(text: str | bytes, place: str) -> Any:
    """The content of a YAML text, or an MlclError that begins with the place it comes from."""
    try:
        return _load(text, place)
    except yaml.YAMLError as error:
        raise MlclError(f"{place} is not YAML: {_reason(error)}") from error


def read_file(file: Path, flag: str = "") -> Any:
    """The content of a file; ``flag`` is the option that named it, for messages."""
    return read(text_of(file, flag), f"{flag} {file}".lstrip())


def text_of(file: Path, flag: str = "") -> str:
    """The text of a file."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MlclError(f"{f'{flag} {file}'.lstrip()} is not YAML: {_reason(error)}") from error


def check_value(text: str, place: str) -> None:
    """Check a value that jsonargparse will read as YAML or, where it is none, as plain text."""
    with suppress(yaml.YAMLError):
        _load(text, place)


def _load(text: str | bytes, place: str) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, place)  # before the values are made: merging (<<: *name) already writes aliases out
        return loader.construct_document(node)
    except _OTHER_ERRORS as error:
        raise MlclError(f"{place} is not YAML: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]


def _check(root: yaml.Node, place: str) -> None:
    sizes: dict[int, tuple[int, int]] = {}

    def measure(node: yaml.Node, depth: int) -> tuple[int, int]:
        """Number of values in a node, with aliases written out, and levels below it."""
        if isinstance(node, yaml.ScalarNode):
            if "\0" in node.value:
                raise MlclError(f"{place}: null character in {node.value[:50]!r}")
            return 1, 0
        if id(node) not in sizes and depth <= _MAX_DEPTH:
            parts = node.value
            if isinstance(node, yaml.MappingNode):
                _check_keys([key for key, _ in node.value], place)
                parts = [part for pair in node.value for part in pair]
            below = [measure(part, depth + 1) for part in parts]
            sizes[id(node)] = 1 + sum(size for size, _ in below), 1 + max((height for _, height in below), default=0)
        size, height = sizes.get(id(node), (0, 1))
        if depth + height > _MAX_DEPTH:
            raise MlclError(f"{place}: nested more than {_MAX_DEPTH} levels deep")
        if size > _MAX_VALUES:
            raise MlclError(f"{place}: more than {_MAX_VALUES:,} values, with its aliases (*name) written out")
        return size, height

    measure(root, 0)


def _check_keys(keys: list[yaml.Node], place: str) -> None:
    """YAML forbids a key that appears twice in a mapping; PyYAML would drop the first."""
    seen = set()
    for key in keys:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise MlclError(f"{place}: the key {key.value!r} twice, line {key.start_mark.line + 1}")
            seen.add((key.tag, key.value))
