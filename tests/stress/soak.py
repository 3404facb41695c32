"""A long training, watched from outside: memory, file handles, threads and shared memory must not grow.

python tests/stress/soak.py --minutes 120 [--output soak.svg] [--flags ...]

Trains on generated scenes in two processes with two loader workers each (gloo, on the CPU), validating after every
short epoch, so that thousands of epochs, checkpoints and worker starts fit into the time. Exit status 1 if something
grew: the median of the last third against that of the middle third, the first being for caches and allocators.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

REPOSITORY = Path(__file__).resolve().parents[2]
KINDS = {"memory MB": 0.03, "file handles": 0.05, "threads": 0.0, "shared memory MB": 0.5}  # growth that passes


def descendants(root: int) -> list[int]:
    """The process and all below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def sample(root: int) -> dict[str, float]:
    """Sums over the process tree; loader workers, which come and go, are left out of all but shared memory."""
    total = dict.fromkeys(KINDS, 0.0)
    for process in descendants(root):
        try:
            folder = Path("/proc", str(process))
            if "mlcl" not in (folder / "cmdline").read_text():
                continue
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_text() == Path("/proc", str(parent), "cmdline").read_text():
                continue  # forked: a loader worker
            lines = dict(line.split(":", 1) for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
            total["memory MB"] += float(lines["Anonymous"].split()[0]) / 1e3
            total["file handles"] += len(list((folder / "fd").iterdir()))
            total["threads"] += len(list((folder / "task").iterdir()))
        except (OSError, ValueError, KeyError):
            continue
    shared = os.statvfs("/dev/shm")
    total["shared memory MB"] = (shared.f_blocks - shared.f_bfree) * shared.f_frsize / 1e6
    return total


def watch(command: list[str], folder: Path, minutes: float, every: float) -> tuple[list[dict[str, float]], int]:
    """Samples of a running command until the time is over or it ends; its epochs so far."""
    rows: list[dict[str, float]] = []
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        start = time.monotonic()
        try:
            while process.poll() is None and time.monotonic() - start < 60 * minutes:
                time.sleep(every)
                rows.append({"minutes": (time.monotonic() - start) / 60, **sample(process.pid)})
            if process.poll() is not None:
                sys.exit(
                    f"it ended by itself with status {process.returncode}:\n{(folder / 'log').read_text()[-2000:]}"
                )
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return rows, (folder / "log").read_text().count("\nepoch ")


def figure(rows: list[dict[str, float]], title: str) -> Figure:
    """One panel for each kind, over minutes, from 0."""
    drawn = Figure(figsize=(8, 5), layout="constrained")
    minutes = [row["minutes"] for row in rows]
    for axes, kind in zip(drawn.subplots(2, 2, sharex=True).ravel(), KINDS, strict=True):
        axes.plot(minutes, [row[kind] for row in rows], linewidth=1)
        axes.set_title(kind)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
    drawn.suptitle(title)
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--every", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--output", type=Path, default=Path("soak.svg"))
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="more flags of mlcl fit")
    given = parser.parse_args()
    if 60 * given.minutes / given.every < 30:
        parser.error("fewer than 30 samples tell nothing: more --minutes, or less --every")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command = [sys.executable, "-m", "mlcl", "fit", "--config", str(REPOSITORY / "configs" / "demo.yaml")]
        command += ["--config", str(REPOSITORY / "configs" / "methods" / "discriminative.yaml"), "--data.root", "data"]
        command += ["--data.train_images", "128", "--data.test_images", "32", "--data.scene_size", "64"]
        command += ["--data.image_size", "48", "--data.batch_size", "16", "--data.num_workers", "2"]
        command += ["--trainer.max_epochs", "1000000", "--model.schedule", "Constant"]
        command += ["--trainer.devices", "2", "--trainer.strategy", "ddp", *given.flags]
        rows, epochs = watch(command, folder, given.minutes, given.every)
    with given.output.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["minutes", *KINDS])
        table.writeheader()
        table.writerows(rows)
    figure(rows, f"{epochs} epochs in {given.minutes:g} minutes, two processes").savefig(given.output)
    third, grown = len(rows) // 3, 0
    print(f"{epochs} epochs, {len(rows)} samples")
    for kind, allowed in KINDS.items():
        middle, last = (float(np.median([row[kind] for row in part])) for part in (rows[third:-third], rows[-third:]))
        grew = last > middle * (1 + allowed)
        grown += grew
        print(f"{kind:18} middle third {middle:10.1f}  last third {last:10.1f}{'  GREW' if grew else ''}")
    return int(grown > 0)


if __name__ == "__main__":
    sys.exit(main())
