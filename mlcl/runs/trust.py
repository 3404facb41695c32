"""What a checkpoint may name: classes of mlcl, torch and Lightning, and of modules that the user imports; no store."""

import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mlcl.errors import MlclError
from mlcl.runs import folders

_TRUSTED = ("mlcl.", "torch.")
# Lightning's classes, if their settings name no code and no place outside the run's folder: callbacks write and remove
# files. DeepSpeed has a configuration of its own, which may name accounts.
_LIGHTNING = tuple(f"lightning.pytorch.{part}." for part in ("callbacks", "plugins", "profilers", "strategies"))
_PLACES = ("dirpath", "exclude_batches_path")
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
    # Without a version, which would empty the folder of that version first.
    "lightning.pytorch.loggers.CSVLogger": ("save_dir", "name", "prefix", "flush_logs_every_n_steps"),
}
# jsonargparse accepts "module.Class" as plain text wherever a class is expected. These keys hold names and paths.
_TEXT_KEYS = (
    *("backbone", "weights", "root", "csv", "val_csv", "test_csv", "name", "classes", "init_from", "version"),
    *("image_column", "labels_column", "split_column", "group_column", "cache_dir", "filename", "queries"),
    *("train", "val", "test", "images", "descriptions", "names", "train_split", "test_split"),
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
    for key, name, reason in _possible_classes(config, "", folders.run_of(Path(path))):
        if not name.startswith((*_TRUSTED, *(f"{module}." for module in trusted))):
            raise MlclError(
                f"{path} names the class {name} ({key}), {reason}; if you trust it, add --import "
                f"{name.rpartition('.')[0] or name}"
            )


def store_of(config: dict[str, Any]) -> str | None:
    """The object store in which the data of a checkpoint's configuration lies, if it does."""
    settings = config["data"].get("init_args") if isinstance(config.get("data"), dict) else None
    root = settings.get("root") if isinstance(settings, dict) else None
    return root if isinstance(root, str) and "://" in root else None


def check_place(config: dict[str, Any], path: str | Path) -> None:
    """Refuse to open a store that a checkpoint names, with the user's keys, unless the user names it too."""
    if place := store_of(config):
        raise MlclError(f"the data of {path} lies in {place}; give --data.root {place} if that is yours")


def _possible_classes(config: Any, key: str, run: Path | None) -> Iterator[tuple[str, str, str]]:
    """Key, text and what is wrong for whatever jsonargparse may read as a class: ``class_path``, or a dotted name."""
    if isinstance(config, dict):
        harmless, reason = key == "logger" and _is_plain_logger(config), ""
        if name := _of_lightning(config.get("class_path")):
            reason = next(_reaching_out(config, key, run), "")
            harmless = not reason
        if reason:
            yield key, name, reason
        for name, value in config.items():
            if not (name == "class_path" and harmless):
                yield from _possible_classes(value, str(name), run)
    elif isinstance(config, list):
        for value in config:
            yield from _possible_classes(value, key, run)
    elif isinstance(config, str) and (key == "class_path" or (key not in _TEXT_KEYS and _DOTTED.fullmatch(config))):
        yield key, config, "from a module that is neither mlcl nor torch"


def _of_lightning(name: Any) -> str:
    """The name, if it is that of one of Lightning's own classes, not of something that its modules import."""
    name = str(name)
    if not name.startswith(_LIGHTNING) or "DeepSpeed" in name:
        return ""
    module, _, attribute = name.rpartition(".")
    kind = getattr(sys.modules.get(module), attribute, None)
    return name if isinstance(kind, type) and kind.__module__.startswith("lightning.") else ""


def _reaching_out(settings: Any, key: str, run: Path | None) -> Iterator[str]:
    """Settings that name code, or a place outside the run's folder."""
    if isinstance(settings, dict | list):
        for name, value in settings.items() if isinstance(settings, dict) else [(key, value) for value in settings]:
            if name != "class_path":
                yield from _reaching_out(value, str(name), run)
    elif isinstance(settings, str):
        place = Path(settings)
        if key in _PLACES:
            inside = run is not None and place.resolve().is_relative_to(run)
        else:
            inside = not place.is_absolute() and ".." not in place.parts
        if not inside or settings.startswith("~") or "::" in settings or "://" in settings:
            yield f"with {key} {settings!r}, which is not in the run's folder"
        elif key not in _TEXT_KEYS and _DOTTED.fullmatch(settings):
            yield f"with {key} {settings!r}, which may be code"


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
