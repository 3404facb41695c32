"""What has to be known of a command line before it can be parsed: its null values, the run's name, its checkpoint."""

import ast
import json
import os
from pathlib import Path
from typing import Any

from mlcl import runs
from mlcl.errors import MlclError


def values(arguments: list[str], flag: str) -> tuple[str, ...]:
    """Every value of a flag, given as ``--flag value`` or ``--flag=value``."""
    pairs = zip(arguments, [*arguments, ""][1:], strict=True)
    return tuple(a.partition("=")[2] if "=" in a else b for a, b in pairs if a.split("=")[0] == flag)


def _value(arguments: list[str], flag: str) -> str | None:
    return (values(arguments, flag) or (None,))[-1]


def nulls(arguments: list[str]) -> list[str]:
    """The command line with null for the ``None`` in ``--key=None`` and in ``--key={'a': None}``.

    So W&B's sweep agents write it, and YAML, which reads the rest of what Python writes, would see text. Only behind
    ``=``: in two words, ``--key None``, it stays the text that it may be.
    """
    pairs = [a.partition("=") if a.startswith("--") else (a, "", "") for a in arguments]
    return [f"{flag}{equals}{_null(value)}" for flag, equals, value in pairs]


def _null(value: str) -> str:
    if value != "None" and not (value[:1] in ("{", "[") and "None" in value):
        return value
    try:
        return json.dumps(ast.literal_eval(value))
    except (ValueError, SyntaxError, TypeError):  # YAML, whose None is text
        return value


def early(arguments: list[str], layer: dict[str, Any]) -> tuple[str, Path, str | None]:
    """What has to be known before the rest is parsed: name, folder of all runs, checkpoint.

    From the flags, else the config files, else (the name) the checkpoint's record or the names of the config files.
    """
    from mlcl.system import yaml_text  # not above: help need not wait for YAML

    files = [Path(value) for flag in ("--config", "-c") for value in values(arguments, flag)]
    merged: dict[str, Any] = {key: layer[key] for key in ("name",) if key in layer}
    for file in files:
        content = yaml_text.read_file(file, "--config") if os.path.isfile(file) else {}
        if not isinstance(content, dict) or not isinstance(content.get("trainer") or {}, dict):
            raise MlclError(f"--config {file} must map keys (data, model, trainer, ...) to their settings")
        merged |= content
    # recipes/x goes over methods/x: its run is told apart, without saying x twice. A logger makes no other run.
    named = [file for file in files if os.path.isfile(file) and file.parent.name != "loggers"]
    stems = "_".join("recipe" if file.parent.name == "recipes" else file.stem for file in named)
    given = _value(arguments, "--name")
    name = str((given if given != "null" else None) or merged.get("name") or stems or "run")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise MlclError(f"--name {name}: it must stay inside the folder runs")
    root = _value(arguments, "--trainer.default_root_dir") or (merged.get("trainer") or {}).get("default_root_dir")
    return name, Path(root or ".").absolute() / "runs", _value(arguments, "--ckpt_path") or merged.get("ckpt_path")


def checked(arguments: list[str]) -> list[str]:
    """The command line itself, after a look at every value before jsonargparse has one.

    Raises:
        MlclError: for one that YAML reads and nobody can use; see :func:`mlcl.system.yaml_text.check_value`.
    """
    from mlcl.system import yaml_text  # not above: help need not wait for YAML

    flag = ""
    for argument in arguments:
        name, given, value = argument.partition("=") if argument.startswith("--") else (flag, "=", argument)
        flag = name
        if given:
            yaml_text.check_value(value, name)
            if name not in ("", "--config") and value.endswith((".yaml", ".yml")) and os.path.isfile(value):
                yaml_text.read_file(Path(value), name)  # any value may be a file: --data data.yaml
    return arguments


def checkpoint_of(value: str | None, folder: Path) -> Path | None:
    """The file that ``--ckpt_path`` means, ``last`` among the runs in this folder; of a run's folder its best one."""
    if value in (None, "null"):
        return None
    return runs.last_checkpoint(folder) if value == "last" else runs.best_checkpoint(Path(str(value)))
