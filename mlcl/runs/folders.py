"""Run folders: ``runs/<name>/version_<n>``, where each run lives, and which is the last."""

import csv
import io
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlcl.errors import MlclError
from mlcl.system.files import write_whole

CHECKPOINTS, CONFIG = "checkpoints", "config.yaml"
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
    notes = {folder / CONFIG, folder / "environment.json"}
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
    started = [run for run in runs.glob("version_*") if (run / CONFIG).is_file()]
    run = max(started, key=_number, default=found[-1].parent.parent)
    if _number(run) > _number(found[-1].parent.parent) and not (run / CHECKPOINTS / "last.ckpt").is_file():
        from mlcl.system.console import say  # not above: it brings lightning

        other, place = os.path.relpath(found[-1].parent.parent), f"{CHECKPOINTS}/last.ckpt"
        say(f"{os.path.relpath(run)} has no {place}: it ended before its first epoch did; going on with {other}")
    return found[-1]


def _number(run: Path) -> int:
    number = run.name.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1


def how_to_continue(folder: Path, config: dict[str, Any], imports: Sequence[str], arguments: Sequence[str]) -> str:
    """What to say of a training that was stopped: what of it is safe, and the command that goes on from there.

    Args:
        folder: of the run.
        config: of the run.
        imports: modules that the command line imports.
        arguments: the command line.
    """
    from mlcl.runs import record  # not above: it brings torch

    last = folder / CHECKPOINTS / "last.ckpt"
    if not last.is_file():
        return " before the end of the first epoch: there is nothing to continue from, start again"
    place = os.path.relpath(last)
    try:
        record.check_classes(config, place, tuple(imports))
        command = [part for module in imports for part in ("--import", module)]
    except MlclError:  # it has classes of the user's own, which a checkpoint alone may not name, but a config may
        command = [*arguments]
        while "--ckpt_path" in command:
            place_of = command.index("--ckpt_path")
            del command[place_of : place_of + 2]
        command = [argument for argument in command if not argument.startswith("--ckpt_path=")]
    line = shlex.join(["mlcl", "fit", *command, "--ckpt_path", place])
    return f"; epoch {record.load(last)['epoch'] + 1} is saved, continue with: {line}"


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
    return run if checkpoint.resolve().parent.name == CHECKPOINTS and (run / CONFIG).is_file() else None


def beside(folder: Path, name: str) -> Path | None:
    """A file of the run that results belong to: in their own folder or, for a later test, in the one above."""
    return next((place / name for place in (folder, folder.parent) if (place / name).is_file()), None)


def describe(folder: Path, config: dict[str, Any]) -> None:
    """What a run is made from: ``config.yaml``, and when, with which command, versions and machine it was started.

    ``environment.json`` has an entry for every start of the run.
    """
    import yaml  # not above: help need not wait for it

    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
    path = folder / "environment.json"
    try:
        starts: list[dict[str, Any]] = json.loads(path.read_text())
    except (OSError, ValueError):
        starts = []
    write_whole(path, json.dumps([*starts, _environment()], indent=2))


def note_environment(folder: Path, **notes: Any) -> None:
    """Add to the last entry of ``environment.json`` what was not known at the start."""
    path = folder / "environment.json"
    try:
        starts: list[dict[str, Any]] = json.loads(path.read_text())
        starts[-1] |= notes
    except (OSError, ValueError, IndexError, TypeError):  # it is a note, no reason to stop a training
        return
    write_whole(path, json.dumps(starts, indent=2))


def tidy(folder: Path, steps: int) -> None:
    """Before a run goes on: remove what a killed process left half done, or will be done again.

    Those are files under their temporary names, and the lines of ``metrics.csv`` after the checkpoint, which a kill
    may also have cut in two.

    Args:
        folder: of the run.
        steps: taken when the checkpoint was written; lines are numbered from 0.
    """
    for partial in (*folder.glob(".*.partial*"), *folder.glob(f"{CHECKPOINTS}/.*.partial*")):
        partial.unlink(missing_ok=True)
    log = folder / "metrics.csv"
    if not log.is_file():
        return
    text = log.read_bytes().decode()  # its line ends as they are
    rows = csv.reader(io.StringIO(text, newline=""))
    header = next(rows, [])
    if "step" not in header:
        return
    column, kept = header.index("step"), io.StringIO(newline="")
    writer = csv.writer(kept)
    writer.writerow(header)
    for row in rows:
        if len(row) == len(header) and row[column].isdecimal() and int(row[column]) < steps:
            writer.writerow(row)
    if kept.getvalue() != text:
        write_whole(log, kept.getvalue())


def _environment() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version  # not above: help need not wait for it

    import torch

    from mlcl.runs.provenance import code_state

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
        "git": code_state(),
    }
