"""Which classes a checkpoint may name: those of mlcl and torch, and of modules that the user imports."""

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mlcl.errors import MlclError

_TRUSTED = ("mlcl.", "torch.")
# Loggers that a continued run may name as well, with these settings only: others name a server, an account or a place
# outside the run, to which the logger would send what is logged, and the user's key with it.
_LOGGERS = {
    "lightning.pytorch.loggers.WandbLogger": (
        *("save_dir", "name", "version", "id", "offline", "project", "group", "tags", "notes", "job_type"),
        *("log_model", "prefix", "checkpoint_name", "add_file_policy"),
    ),
    "lightning.pytorch.loggers.TensorBoardLogger": (
        *("save_dir", "name", "version", "sub_dir", "prefix", "log_graph", "default_hp_metric"),
        *("comment", "filename_suffix", "max_queue", "flush_secs", "purge_step"),
    ),
}
# jsonargparse accepts "module.Class" as plain text wherever a class is expected. These keys hold names and paths.
_TEXT_KEYS = (
    *("backbone", "weights", "root", "csv", "val_csv", "test_csv", "name", "classes", "init_from", "version"),
    *("image_column", "labels_column", "split_column", "cache_dir"),
)
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def import_modules(modules: Iterable[str]) -> None:
    """Import the modules that ``--import`` names, whose classes a checkpoint may then name."""
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise MlclError(f"--import {module}: {error}") from error


def check_classes(config: Any, path: str | Path, trusted: tuple[str, ...] = ()) -> None:
    """Refuse a checkpoint's configuration that names classes of other modules: importing them would run their code."""
    for key, name in _possible_classes(config, ""):
        if not name.startswith((*_TRUSTED, *(f"{module}." for module in trusted))):
            raise MlclError(
                f"{path} names the class {name} ({key}), from a module that is neither mlcl nor torch; if you trust "
                f"it, add --import {name.rpartition('.')[0] or name}"
            )


def _possible_classes(config: Any, key: str) -> Iterator[tuple[str, str]]:
    """Key and text of whatever jsonargparse may read as a class: ``class_path``, or a dotted name."""
    if isinstance(config, dict):
        for name, value in config.items():
            if not (name == "class_path" and key == "logger" and _is_plain_logger(config)):
                yield from _possible_classes(value, str(name))
    elif isinstance(config, list):
        for value in config:
            yield from _possible_classes(value, key)
    elif isinstance(config, str) and (key == "class_path" or (key not in _TEXT_KEYS and _DOTTED.fullmatch(config))):
        yield key, config


def _is_plain_logger(config: dict[str, Any]) -> bool:
    """Whether it can only write into the run's own folder, or to the user's own account."""
    settings = config.get("init_args") or {}
    allowed = _LOGGERS.get(str(config["class_path"]))
    if allowed is None or set(config) - {"class_path", "init_args"} or not isinstance(settings, dict):
        return False
    given = {name: value for name, value in settings.items() if value is not None}
    places = [Path(str(given[name])) for name in ("save_dir", "name", "version", "sub_dir") if name in given]
    inside = not any(place.is_absolute() or ".." in place.parts for place in places)
    return inside and given.keys() <= set(allowed)
