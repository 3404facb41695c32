"""Run folders: ``runs/<name>/version_<n>``, what is in them, and which run is the last."""

import csv
import io
import os
import shutil
from pathlib import Path

from mlcl.errors import MlclError
from mlcl.system.files import write_whole

CHECKPOINTS, CONFIG, ENVIRONMENT = "checkpoints", "config.yaml", "environment.json"
WEIGHTS, ABOUT = "model.safetensors", "mlcl.json"  # in a folder of exported weights
RUN_FOLDER = "MLCL_RUN_FOLDER"  # the environment variable that tells a child process which folder is its run


def new_folder(parent: Path, prefix: str = "version_") -> Path:
    """Make and return the next free ``<prefix><n>`` under ``parent``; safe against other processes doing the same."""
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
    if folder.is_dir() and set(folder.iterdir()) <= {folder / CONFIG, folder / ENVIRONMENT}:
        shutil.rmtree(folder, ignore_errors=True)


def last_checkpoint(runs: Path) -> Path:
    """The newest ``last.ckpt`` of the runs in this folder."""
    found = sorted(runs.glob(f"*/{CHECKPOINTS}/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise MlclError(
            f"--ckpt_path last: no run under {runs} has a {CHECKPOINTS}/last.ckpt; give a file, or --name of the run"
        )
    return found[-1]


def best_checkpoint(path: str | Path) -> Path:
    """The file itself; for a run's folder its ``best.ckpt``, for the folder of several runs the newest one's.

    For a folder of ``mlcl export --format safetensors`` the file of its weights.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_dir():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    found = [*path.glob(f"{CHECKPOINTS}/best.ckpt"), *path.glob(f"*/{CHECKPOINTS}/best.ckpt")]
    if not found:
        raise MlclError(f"{path}: no run with a {CHECKPOINTS}/best.ckpt in this folder; give a checkpoint file")
    return max(found, key=lambda file: file.stat().st_mtime)


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, or None for a checkpoint that was moved elsewhere."""
    run = checkpoint.resolve().parent.parent
    return run if checkpoint.resolve().parent.name == CHECKPOINTS and (run / CONFIG).is_file() else None


def name_and_version(folder: Path) -> tuple[str, str]:
    """Name and version of a run: ``coco_sadcl`` and ``version_3``."""
    parts = folder.parts
    start = len(parts) - parts[::-1].index("runs") if "runs" in parts else len(parts) - 2
    return "/".join(parts[start:-1]) or "run", folder.name


def beside(folder: Path, name: str) -> Path | None:
    """A file of the run that results belong to: in their own folder or, for a later test, in the one above."""
    return next((place / name for place in (folder, folder.parent) if (place / name).is_file()), None)


def tidy(folder: Path, steps: int) -> None:
    """Remove what a killed process left: temporary files, and log lines from step ``steps`` of the checkpoint on."""
    for partial in (*folder.glob(".*.partial*"), *folder.glob(f"{CHECKPOINTS}/.*.partial*")):
        partial.unlink(missing_ok=True)
    log = folder / "metrics.csv"
    if not log.is_file():
        return
    text = log.read_bytes().decode()  # keeps its line ends
    rows = csv.reader(io.StringIO(text, newline=""))
    header = next(rows, [])
    if "step" not in header:
        return
    column, kept = header.index("step"), io.StringIO(newline="")
    writer = csv.writer(kept)
    writer.writerow(header)
    for row in rows:  # a kill may have cut the last one
        if len(row) == len(header) and row[column].isdecimal() and int(row[column]) < steps:
            writer.writerow(row)
    if kept.getvalue() != text:
        write_whole(log, kept.getvalue())
