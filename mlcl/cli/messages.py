"""Turning jsonargparse's messages into one line: which option, what is wrong, and what would be right."""

import inspect
import re
import sys
from itertools import takewhile
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch import callbacks as lightnings
from torch.optim import SGD, AdamW

import mlcl.data
import mlcl.heads
import mlcl.losses
import mlcl.optim
from mlcl.cli import help
from mlcl.cli.command_line import CommandLine, meant, options
from mlcl.module import MultiLabelModule
from mlcl.network import Network

_CHOICES = {
    "data": mlcl.data.DATASETS,
    "head": mlcl.heads.HEADS,
    "classification_loss": mlcl.losses.CLASSIFICATION_LOSSES,
    "embedding_loss": mlcl.losses.EMBEDDING_LOSSES,
    "schedule": mlcl.optim.SCHEDULES,
    "callbacks": {name: getattr(lightnings, name) for name in lightnings.__all__},
}
_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text", "list": "a list"}
_IN_QUOTES = '; YAML takes numbers, and words like no, as text only in quotes: ["no", "12e4"]'


def translate(message: str, given: CommandLine) -> str:
    """One clear line."""
    text = " ".join(message.split())
    if re.search(r"arguments are required: save_dir\b", text):
        return "--trainer.logger.save_dir is missing: where this logger writes, such as runs/tensorboard"
    if match := re.search(r"lightning\.pytorch\.callbacks\.(\w+)': the following arguments are required: (\w+)", text):
        return f"--trainer.callbacks: {match[1]} needs {match[2]}"
    if match := re.search(r"(?:Option|accept option) '([^']+)'", text):
        return f"{_place(match[1], given)}: unknown option{_meant(_place(match[1], given))}"
    if match := re.search(r"unrecognized arguments: (\S+)", text):
        return f"{match[1]}: unknown option{_meant(match[1].split('=')[0])}"
    if 'Parser key "' in message:
        return _about_a_value(message, given)
    return text[:300]


def _about_a_value(message: str, given: CommandLine) -> str:
    """From the innermost of jsonargparse's nested paragraphs, which begin with ``Parser key "x":``."""
    above, _, rest = message.rpartition('Parser key "')
    key, _, rest = rest.partition('":')
    first, *lines = rest.splitlines()
    indent = len(above) - len(above.rstrip(" "))
    inside = takewhile(lambda text: not text.strip() or text[: indent + 1].isspace(), lines)
    return f"{_place(key, given)}: {_wrong_value(chr(10).join([first, *inside]), key.split('.')[-1])}"


def _wrong_value(text: str, name: str) -> str:
    """What is wrong with the value of an option, from jsonargparse's message about it."""
    given = re.search(r"(?:Given value|Got value|dot import path string): (\S.*)", text)
    value = given[1].strip() if given else ""
    if name in _CHOICES and "class_path" not in value:
        known = ", ".join(_CHOICES[name]) or "none yet"
        reason = re.search(r"(Unable to import[^:]*|[Nn]o module named \S+|Import path \S+ does not[^.]*)", text)
        detail = f" ({reason[1]})" if reason else ""
        return f"unknown class {value!r}{detail}; known: {known}; or yours, as file.Class"
    literal = re.search(r"Literal\[([^\]]*)\]", text)
    kinds = re.findall(r"<class '(?!NoneType)([\w.]+)'>", text.split("Given value type")[0])
    if literal and "float" not in kinds:
        return f"expected one of {literal[1]}, got {value or 'something else'!r}"
    if value and kinds and all(kind in _KINDS for kind in kinds):
        words = [*(_KINDS[kind] for kind in kinds), *([literal[1]] if literal else [])]
        wanted = " or ".join(dict.fromkeys(words))
        if "int" in kinds and "float" not in kinds and re.fullmatch(r"-?\d+\.0*", value):
            whole = value.partition(".")[0]
            return f"expected {wanted}, got {value!r}; write {whole} (in a sweep: int_uniform or values)"
        return f"expected {wanted}, got {value!r}{_IN_QUOTES if wanted == 'text' else ''}"
    problem = f"{value!r} is not possible here" if value else "this value is not possible here"
    return f"{problem[:200]}; mlcl <verb> --help_all shows what is"


def misplaced_null(config: Namespace, arguments: list[str]) -> str | None:
    """A message about a null on the command line that is not meant, or not possible, if there is one.

    jsonargparse (4.53) does not check for None inside a class, so that the run would fail later and less clearly; and
    what YAML takes for nothing it drops in silence where there may be nothing.
    """
    for flag, value in {flag: value for flag, value, _ in options(arguments)}.items():
        *above, name = flag.removeprefix("--").split(".")
        place: Any = config
        for part in above:
            place = place.get("init_args", place).get(part) if isinstance(place, Namespace) else None
        if not isinstance(place, Namespace):
            continue
        if value == "null" and above and not _takes_none(str(place.get("class_path")), name):
            return f"{flag}: null is not possible here"
        inside = place.get("init_args", place)
        if value and value.lower() != "null" and name in inside and inside[name] is None:
            return f"{flag}: {value!r} is nothing in YAML, where # begins a comment and ~ is null; choose another text"
    return None


def _takes_none(class_path: str, name: str) -> bool:
    """Whether an argument of this class, or of a base that its ``**settings`` go to, may be None by its annotation."""
    module, _, attribute = class_path.rpartition(".")
    chosen = getattr(sys.modules.get(module), attribute, object)
    try:
        hints = [get_type_hints(vars(base).get("__init__", object)) for base in chosen.__mro__]
    except (NameError, TypeError):  # a name that only a type checker imports
        return True
    hint = next((found[name] for found in hints if name in found), Any)
    return hint in (Any, None) or type(None) in get_args(hint)


def _place(key: str, given: CommandLine) -> str:
    """The option as the user wrote it: on the command line, or in which config file."""
    name = key.split(".")[-1]
    for argument in given.arguments:
        flag = argument.split("=")[0]
        if flag.startswith("--") and flag.split(".")[-1].lstrip("-") == name:
            return flag
    for file, content in given.configs.items():
        if path := _find(content, name):
            return f"{file}: {path}"
    return key


def _find(content: Any, name: str) -> str | None:
    """Where a key stands in a config, ``init_args`` left out as on the command line."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == name:
            return str(key)
        if below := _find(value, name):
            return below if key == "init_args" else f"{key}.{below}"
    return None


def _meant(place: str) -> str:
    name = re.split("[. ]", place)[-1].lstrip("-")
    classes = [c for kind, group in _CHOICES.items() if kind != "callbacks" for c in group.values()]
    if having := [c.__name__ for c in classes if name in inspect.signature(c).parameters]:
        return f", or one of another class ({', '.join(having[:3])}): a class goes before its arguments"
    bases = (MultiLabelModule, Network, mlcl.data.MultiLabelDataModule, Trainer, AdamW, SGD)
    known = {parameter for c in (*classes, *bases) for parameter in inspect.signature(c).parameters}
    elsewhere = help.meant(name, exactly=True)
    return elsewhere if elsewhere and place not in elsewhere else meant(name, known - {"settings"})
