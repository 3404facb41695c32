"""YAML that people write, read with care: what is wrong in it is a line, before a parser or a copy chokes on it."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mlcl.errors import MlclError

_DEEPEST = 100  # levels; a config of ours has eight
_MOST = 1_000_000  # values, those that an alias repeats counted each time: nine lines can stand for 9 ** 9
# What PyYAML 6 raises, beside its own errors, for tags with nothing behind them, numbers of thousands of digits, and
# brackets by the thousand.
_CHOKED = (ValueError, IndexError, AttributeError, KeyError, TypeError, RecursionError, OverflowError)


class _Loader(yaml.SafeLoader):
    """As safe_load, but 2026-11-22 is text: so jsonargparse takes it, and a name like 2026-22-11 is no date."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _FileLoader(_Loader):
    """A key that stands twice in a mapping is an error: YAML forbids it, PyYAML drops the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} twice", key.start_mark)
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def read(text: str | bytes, place: str) -> Any:
    """The content of a config.

    Args:
        text: of the whole file.
        place: where it stands, for messages.

    Raises:
        MlclError: if it is not YAML, names a key twice, or holds what nothing could be done with: see :func:`check`.
    """
    try:
        content = yaml.load(text, _FileLoader)
    except (yaml.YAMLError, *_CHOKED) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise MlclError(f"{place} is not YAML: {reason[:200]}") from error
    check(content, place)
    return content


def read_file(file: Path, flag: str = "") -> Any:
    """The content of a file, for messages with the flag that named it.

    Raises:
        MlclError: as :func:`read`; or if it is no UTF-8 text, or cannot be read.
    """
    place = f"{flag} {file}".lstrip()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MlclError(f"{place} is not YAML: {' '.join(str(error).split())[:200]}") from error
    return read(text, place)


def check_value(text: str, place: str) -> None:
    """A value on the command line, which jsonargparse reads as YAML where it is that, and else as text.

    Args:
        text: the value.
        place: its flag, for messages.

    Raises:
        MlclError: where reading it would fail in another way: see :func:`check`.
    """
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return
    except _CHOKED as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise MlclError(f"{place}: {text[:100]!r} cannot be read: {reason[:200]}") from error
    check(content, place)


def check(content: Any, place: str) -> None:
    """Whether it can be copied and printed.

    Raises:
        MlclError: if it is nested too deeply (or contains itself), too large with its aliases written out, or has a
            text with a byte of 0, which no file name may have.
    """
    known: dict[int, tuple[int, int]] = {}

    def measure(node: Any, depth: int) -> tuple[int, int]:
        """Number of values in a node, and levels below it."""
        if isinstance(node, str) and "\0" in node:
            raise MlclError(f"{place}: a text with a byte of 0: {node[:50]!r}")
        parts = [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list) else ()
        if depth > _DEEPEST:
            raise MlclError(f"{place}: nested more than {_DEEPEST} levels deep")
        if not parts:
            return 1, 0
        if id(node) not in known:
            below = [measure(part, depth + 1) for part in parts]
            known[id(node)] = 1 + sum(size for size, _ in below), 1 + max(height for _, height in below)
        size, height = known[id(node)]
        if depth + height > _DEEPEST:
            raise MlclError(f"{place}: nested more than {_DEEPEST} levels deep")
        if size > _MOST:
            raise MlclError(f"{place}: more than {_MOST:,} values, with its aliases (*name) written out")
        return size, height

    measure(content, 0)
