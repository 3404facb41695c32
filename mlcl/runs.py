"""Run folders: ``runs/<name>/version_<n>``, where each run lives, and which is the last."""

import json
import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlcl.errors import MlclError

CHECKPOINTS = "checkpoints"
_PACKAGES = ("mlcl", "torch", "torchvision", "lightning", "torchmetrics", "timm", "jsonargparse", "numpy", "pillow")


def new_folder(parent: Path, prefix: str = "version_") -> Path:
    """Make and return the next free ``<prefix><n>`` under ``parent``; safe against other processes doing the same.

    Raises:
        MlclError: if nothing can be written there.
    """
    taken = [int(p.name.removeprefix(prefix)) for p in parent.glob(f"{prefix}*") if p.name[len(prefix) :].isdigit()]
    number = max(taken, default=-1) + 1
    while True:
        try:
            (parent / f"{prefix}{number}").mkdir(parents=True)
            return parent / f"{prefix}{number}"
        except FileExistsError:
            number += 1
        except OSError as error:
            raise MlclError(f"no run folder can be made in {parent}: {error.strerror}") from error


def discard_if_untouched(folder: Path) -> None:
    """Remove a run's folder in which nothing was trained or tested yet: a run that failed at its start."""
    notes = {folder / "config.yaml", folder / "environment.json"}
    if folder.is_dir() and set(folder.iterdir()) <= notes:
        shutil.rmtree(folder, ignore_errors=True)


def last_checkpoint(runs: Path) -> Path:
    """The newest ``last.ckpt`` of the runs in this folder.

    Raises:
        MlclError: if there is none, so that nobody believes to continue and starts from scratch.
    """
    found = sorted(runs.glob(f"*/{CHECKPOINTS}/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise MlclError(
            f"--ckpt_path last: no run under {runs} has a {CHECKPOINTS}/last.ckpt; give a file, or --name of the run"
        )
    return found[-1]


def best_checkpoint(path: str | Path) -> Path:
    """The file itself; for a run's folder its ``best.ckpt``, for the folder of several runs the newest one's.

    Raises:
        MlclError: if there is none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = [*path.glob(f"{CHECKPOINTS}/best.ckpt"), *path.glob(f"*/{CHECKPOINTS}/best.ckpt")]
    if not found:
        raise MlclError(f"{path}: no run with a {CHECKPOINTS}/best.ckpt in this folder; give a checkpoint file")
    return max(found, key=lambda file: file.stat().st_mtime)


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, or None for a checkpoint that was moved elsewhere."""
    run = checkpoint.resolve().parent.parent
    return run if checkpoint.resolve().parent.name == CHECKPOINTS and (run / "config.yaml").is_file() else None


def write_text(path: Path, text: str) -> None:
    """Write a file all at once: a reader, or a crash, never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_environment(folder: Path) -> None:
    """``environment.json``: when, with which command, versions and machine; one entry for every start of the run."""
    path = folder / "environment.json"
    try:
        starts: list[dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError):
        starts = []
    write_text(path, json.dumps([*starts, _environment()], indent=2))


def _environment() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version  # not above: help need not wait for it

    import torch

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": versions,
    }
