"""From jsonargparse's diagnosis to one line that says which option, what is wrong, and what would be right."""

import difflib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import Namespace
from lightning import Trainer
from torch.optim import SGD, AdamW

import mlcl.data
import mlcl.heads
import mlcl.losses
import mlcl.optim
from mlcl.cli import command_line
from mlcl.module import MultiLabelModule
from mlcl.network import Network

_CHOICES = {
    "data": mlcl.data.DATASETS,
    "head": mlcl.heads.HEADS,
    "classification_loss": mlcl.losses.CLASSIFICATION_LOSSES,
    "embedding_loss": mlcl.losses.EMBEDDING_LOSSES,
    "schedule": mlcl.optim.SCHEDULES,
}


def translate(message: str, arguments: list[str]) -> str:
    """One clear line.

    Args:
        message: what jsonargparse said, on any number of lines.
        arguments: the command line, to find the option that was meant.
    """
    text = " ".join(message.split())
    if re.search(r"arguments are required: save_dir\b", text):
        return "--trainer.logger.save_dir is missing: where this logger writes, such as runs/tensorboard"
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        return f"{_place(match[1], arguments)}: unknown option{_meant(match[1])}"
    if match := re.search(r"unrecognized arguments: (\S+)", text):
        return f"{match[1]}: unknown option{_meant(match[1].split('=')[0].split('.')[-1])}"
    if match := re.search(r'Parser key "([^"]+)"', text):
        key, name = match[1], match[1].split(".")[-1]
        given = re.search(r"(?:Given value|Got value|dot import path string): (\S.*?)(?: - |$)", text)
        value = given[1].strip() if given else ""
        if name in _CHOICES and "class_path" not in value:
            known = ", ".join(_CHOICES[name]) or "none yet"
            reason = re.search(r"(Unable to import[^:]*|[Nn]o module named \S+|Import path \S+ does not[^.]*)", text)
            detail = f" ({reason[1]})" if reason else ""
            return f"{_place(key, arguments)}: unknown class {value!r}{detail}; known: {known}; or yours, as file.Class"
        expected = [
            kind for kind in re.findall(r"<class '([\w.]+)'>", text.split("Given value type")[0]) if kind != "NoneType"
        ]
        wanted = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text"}
        if literal := re.search(r"Literal\[([^\]]*)\]", text):
            return f"{_place(key, arguments)}: expected one of {literal[1]}, got {value or 'something else'!r}"
        if value and expected and all(kind in wanted for kind in expected):
            kinds = " or ".join(dict.fromkeys(wanted[kind] for kind in expected))
            return f"{_place(key, arguments)}: expected {kinds}, got {_given(text, value, expected)}"
        problem = f"{value!r} is not possible here" if value else "this value is not possible here"
        return f"{_place(key, arguments)}: {problem[:200]}; mlcl <verb> --help_all shows what is"
    return text[:300]


def misplaced_null(config: Namespace, arguments: list[str]) -> str | None:
    """What is wrong with a null on the command line, given to an argument of a class that has no use for it.

    jsonargparse (4.53) checks no null below a class, so that a run would fail later, at a place that says less.
    """
    for flag in dict.fromkeys(argument.split("=")[0] for argument in arguments):
        *above, name = flag.removeprefix("--").rstrip("+").split(".")
        if "null" not in command_line.values(arguments, flag)[-1:] or not above:
            continue
        place: Any = config
        for part in above:
            place = place.get("init_args", place) if isinstance(place, Namespace) else None
            place = place.get(part) if isinstance(place, Namespace) else None
        if isinstance(place, Namespace) and not _takes_none(str(place.get("class_path")), name):
            return f"{flag}: null is not possible here"
    return None


def _takes_none(class_path: str, name: str) -> bool:
    """Whether an argument of this class may be None, as far as its annotation says."""
    module, _, attribute = class_path.rpartition(".")
    chosen = getattr(sys.modules.get(module), attribute, None)
    for base in inspect.getmro(chosen) if isinstance(chosen, type) else ():  # the rest of a **settings is further up
        made_by = vars(base).get("__init__")
        if made_by is not None and name in inspect.signature(made_by).parameters:
            try:
                hint = get_type_hints(made_by).get(name, Any)
            except (NameError, TypeError):  # a name that only a type checker imports
                return True
            return hint in (Any, None) or type(None) in get_args(hint)
    return True


def _given(text: str, value: str, expected: list[str]) -> str:
    """The value and, for a frequent mistake, what to write instead."""
    if value == "None" and "NoneType" in text and "value type: <class 'str'>" in text:
        return "'None'; null is written null, or None behind an ="
    if "int" in expected and "float" not in expected and re.fullmatch(r"-?\d+\.0*", value):
        return f"{value!r}; write {value.partition('.')[0]} (in a sweep: int_uniform or values)"
    return repr(value)


def _place(key: str, arguments: list[str]) -> str:
    """The option as the user wrote it: on the command line, or in which config file."""
    name = key.split(".")[-1]
    for argument in arguments:
        flag = argument.split("=")[0]
        if flag.startswith("--") and flag.split(".")[-1].lstrip("-") == name:
            return flag
    for argument in (value for a in arguments for value in (a.partition("=")[2], a) if value):
        if Path(argument).suffix in (".yaml", ".yml") and os.path.isfile(argument):
            try:
                path = _find(yaml.safe_load(Path(argument).read_text()), name)
            except (yaml.YAMLError, ValueError, RecursionError):
                continue
            if path:
                return f"{argument}: {path}"
    return key


def _find(content: Any, name: str) -> str | None:
    """Where a key stands in a config, ``init_args`` left out as on the command line."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == name:
            return str(key)
        if below := _find(value, name):
            return below if key == "init_args" else f"{key}.{below}"
    return None


def _meant(name: str) -> str:
    classes = [c for group in _CHOICES.values() for c in group.values()]
    if having := [c.__name__ for c in classes if name in inspect.signature(c).parameters]:
        return f", or one of another class ({', '.join(having[:3])}): a class goes before its arguments"
    bases = (MultiLabelModule, Network, mlcl.data.MultiLabelDataModule, Trainer, AdamW, SGD)
    known = {parameter for c in (*classes, *bases) for parameter in inspect.signature(c).parameters}
    close = difflib.get_close_matches(name, known - {"settings"}, n=1)
    return f" (did you mean {close[0]}?)" if close and close[0] != name else ""
