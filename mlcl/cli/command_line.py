"""What has to be known of a command line before jsonargparse parses it: config files, run name, checkpoint."""

import ast
import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlcl.errors import MlclError
from mlcl.runs import folders

_CONFIG = ("--config", "-c")
_OF_HEAD = re.compile(r"--model\.network\.(?:init_args\.)?head\.(?:init_args\.)?(\w+)")


@dataclass
class CommandLine:
    """A command line whose config files were read once, and whose values are safe to parse."""

    arguments: list[str]  # as given, W&B's None written as null
    configs: dict[Path, dict[str, Any]] = field(default_factory=dict)  # file -> content, in the order given
    parsed: list[str] = field(default_factory=list)  # the arguments for jsonargparse: config files as text

    def __post_init__(self) -> None:
        from mlcl.system import yaml_text  # help need not wait for YAML

        self.arguments = [_with_null(argument) for argument in self.arguments]
        for flag, value, words in options(self.arguments):
            file = Path(value or "")
            if flag in _CONFIG and os.path.isfile(file):
                text = yaml_text.text_of(file, "--config")
                content = yaml_text.read(text, f"--config {file}")
                if not isinstance(content, dict) or not isinstance(content.get("trainer") or {}, dict):
                    raise MlclError(f"--config {file} must map keys (data, model, trainer, ...) to their settings")
                self.configs[file] = content
                words = [f"--config={text}"]
            elif value == "null" and (part := _OF_HEAD.fullmatch(flag)):
                # jsonargparse (4.53) makes the text None of it, two classes deep; not so in a config.
                words = [
                    f"--config={{model: {{network: {{init_args: {{head: {{init_args: {{{part[1]}: null}}}}}}}}}}}}"
                ]
            elif value is not None:
                yaml_text.check_value(value, f"{flag} {value[:50]!r}")
                if file.suffix in (".yaml", ".yml") and os.path.isfile(file):  # --data data.yaml
                    yaml_text.read_file(file, flag)
            self.parsed += words

    @property
    def imports(self) -> tuple[str, ...]:
        """The modules that ``--import`` names."""
        return values(self.arguments, "--import")

    @property
    def runs_root(self) -> Path:
        """The folder of all runs."""
        trainer = self._merged().get("trainer") or {}
        root = self._last("--trainer.default_root_dir") or trainer.get("default_root_dir") or "."
        return Path(os.path.expanduser(str(root))).absolute() / "runs"

    @property
    def checkpoint(self) -> Path | None:
        """The file that ``--ckpt_path`` means."""
        return checkpoint_of(self._last("--ckpt_path") or self._merged().get("ckpt_path"), self.runs_root / self.name())

    def name(self, stored: str | None = None) -> str:
        """The run's name: from the flag, a config file, the checkpoint, or the names of the config files."""
        given = self._last("--name")
        # recipes/x is laid over methods/x: its run is called x_recipe, not x_x. Another logger makes no other run.
        stems = [file for file in self.configs if file.parent.name != "loggers"]
        files = "_".join("recipe" if file.parent.name == "recipes" else file.stem for file in stems)
        name = str((given if given != "null" else None) or self._merged().get("name") or stored or files or "run")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise MlclError(f"--name {name}: it must stay inside the folder runs")
        return name

    def _merged(self) -> dict[str, Any]:
        return {key: value for content in self.configs.values() for key, value in content.items()}

    def _last(self, flag: str) -> str | None:
        return (values(self.arguments, flag) or (None,))[-1]


def values(arguments: list[str], flag: str) -> tuple[str, ...]:
    """Every value of a flag, given as ``--flag value`` or ``--flag=value``."""
    return tuple(value or "" for name, value, _ in options(arguments) if name == flag)


def checkpoint_of(value: str | None, folder: Path) -> Path | None:
    """The file that ``--ckpt_path`` means: ``last`` among the runs in a folder; of a run's folder its best one."""
    if value in (None, "null"):
        return None
    return folders.last_checkpoint(folder) if value == "last" else folders.best_checkpoint(Path(str(value)))


def options(arguments: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Flag, value (None where it has none) and the words of both; a word of its own has no flag."""
    words = list(arguments)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            yield "", word, [word]
        elif equals:
            yield flag, value, [word]
        elif words and not words[0].startswith("--"):
            yield flag, words[0], [word, words.pop(0)]
        else:
            yield flag, None, [word]


def meant(word: str, known: Iterable[str]) -> str:
    """The known word that is closest to an unknown one, as a question; empty if none is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close and close[0] != word else ""


def _with_null(argument: str) -> str:
    """``--key=None`` and ``--key={'a': None}``, as W&B's sweeps write them, with null; ``--key None`` may be a text."""
    flag, equals, value = argument.partition("=")
    if not argument.startswith("--") or not (value == "None" or (value[:1] in ("{", "[") and "None" in value)):
        return argument
    try:
        return f"{flag}{equals}{json.dumps(ast.literal_eval(value))}"
    except (ValueError, SyntaxError, TypeError):  # YAML, where None is a text
        return argument
