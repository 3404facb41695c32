"""The label contrastive loss on present rows alone, against all pairs of rows: same value, time and peak memory.

python tests/benchmarks/losses.py [--labels FILE.npz] [--smoke]
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plain
import rounds
import torch
from torch import Tensor

from mlcl.losses import LabelContrastiveLoss

K, D, VIEWS, BATCHES, REPEATS = 80, 512, 2, (16, 32, 64, 128, 256), 7
LIMIT = 6e9  # bytes that one call may take; others work on the machine
OURS, THEIRS = "present rows", "all pairs"
FORMULATIONS = {OURS: LabelContrastiveLoss(temperature=0.2), THEIRS: plain.all_pairs}


def call(name: str, embeddings: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Forward and backward: the value and the gradient of the embeddings."""
    value = FORMULATIONS[name](embeddings, targets)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return value.item(), gradient


def label_rows(file: Path | None) -> tuple[np.ndarray, str]:
    """Label rows (N, K) in {1, 0, -1}, and where they are from."""
    if file is None and plain.REAL_LABELS.is_file():
        file = plain.REAL_LABELS
    if file is not None:
        return np.load(file)["labels"], f"real labels, {file.name}"
    return plain.coco_like(20_000, K), "generated labels with COCO's frequencies"


def batch(labels: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    """Random embeddings and the labels of ``size`` random images, the same in every process."""
    chosen = np.random.default_rng(size).choice(len(labels), size, replace=False)
    embeddings = torch.randn(size, VIEWS, K, D, generator=torch.Generator().manual_seed(size), requires_grad=True)
    return embeddings, torch.from_numpy(labels[chosen].astype(np.int64))


def status(key: str) -> int:
    """VmRSS (resident now) or VmHWM (its highest level) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure_peak(name: str, labels: np.ndarray, size: int) -> dict[str, int]:
    """What one call adds, in bytes: resident memory of the process, and what torch's allocator handed out.

    Not ``getrusage``: its ru_maxrss cannot be set back, and a new process inherits that of its parent.
    """
    call(name, *batch(labels, 2))
    embeddings, targets = batch(labels, size)
    Path("/proc/self/clear_refs").write_text("5")  # the highest level starts again from here
    before = status("VmRSS")
    call(name, embeddings, targets)
    resident = status("VmHWM") - before
    return {"allocated": rounds.peak_bytes(lambda: call(name, embeddings, targets)), "resident": resident}


def peak(name: str, size: int, file: Path | None) -> dict[str, int]:
    """:func:`measure_peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, str(size), *(["--labels", str(file)] if file else [])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{name} at {size} images: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def check_equal(embeddings: Tensor, targets: Tensor) -> None:
    """Both formulations must agree in value and gradient."""
    (value, gradient), (expected, expected_gradient) = (call(name, embeddings, targets) for name in FORMULATIONS)
    assert abs(value - expected) <= 1e-5 * abs(expected), (value, expected)
    assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


def row_of(size: int, labels: np.ndarray, file: Path | None, bytes_per_pair: float, smoke: bool) -> dict:
    """One batch size: peaks, then times in turn."""
    embeddings, targets = batch(labels, size)
    needed = (size * VIEWS * K) ** 2 * bytes_per_pair
    fits = needed <= min(LIMIT, 0.8 * rounds.available_bytes())
    names = [*FORMULATIONS] if fits else [OURS]
    peaks = {name: measure_peak(name, labels, size) if smoke else peak(name, size, file) for name in names}
    if fits:
        check_equal(embeddings, targets)
    steps = {name: lambda name=name: call(name, embeddings, targets) for name in names}
    summary = rounds.summary(rounds.measure(steps, 1 if smoke else REPEATS), OURS)
    row: dict = {"B": size, "rows": int((targets == 1).sum()) * VIEWS, "all rows": size * VIEWS * K}
    row |= {name: {**summary[name], "peak_bytes": peaks[name]} for name in names}
    if fits:
        row["times_faster"] = row[THEIRS]["times_as_long"]
        row["times_smaller"] = peaks[THEIRS]["allocated"] / peaks[OURS]["allocated"]
        row["times_smaller_resident"] = peaks[THEIRS]["resident"] / max(1, peaks[OURS]["resident"])
    else:
        row[THEIRS] = f"not run, needs about {needed / 1e9:.0f} GB"
    return row


def grown(before: dict, now: dict) -> dict[str, float]:
    """How many times as much the next batch size takes."""
    return {
        "time": now[OURS]["seconds_min_median_max"][1] / before[OURS]["seconds_min_median_max"][1],
        "allocated": now[OURS]["peak_bytes"]["allocated"] / before[OURS]["peak_bytes"]["allocated"],
    }


def show(row: dict) -> None:
    """One batch size of the table."""
    print(f"B={row['B']}: {row['rows']} present of {row['all rows']:,} rows")
    for name in FORMULATIONS:
        if isinstance(row[name], str):
            print(f"  {name:13} {row[name]}")
            continue
        low, middle, high = (1e3 * s for s in row[name]["seconds_min_median_max"])
        sizes = row[name]["peak_bytes"]
        memory = f"{sizes['allocated'] / 1e6:8.1f} / {sizes['resident'] / 1e6:8.1f} MB"
        print(f"  {name:13} {low:9.1f} / {middle:9.1f} / {high:9.1f} ms   peak {memory}")
    if "times_faster" in row:
        smaller = f"{row['times_smaller']:.0f} (resident {row['times_smaller_resident']:.0f}) times smaller"
        print(f"  present rows: {row['times_faster']:.0f} times faster, {smaller}")
    if "growth_per_doubling" in row:
        growth = row["growth_per_doubling"]
        print(f"  present rows, twice the images: {growth['time']:.2f} x time, {growth['allocated']:.2f} x memory")


def main(argv: Sequence[str] | None = None) -> None:
    """Every batch size: peaks in fresh processes, then times in turn; a table, and runs/bench-losses.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, help=".npz with labels (N, 80) in {1, 0, -1}")
    parser.add_argument("--smoke", action="store_true", help="two small batches, one repeat: only to see that it works")
    parser.add_argument("--peak", nargs=2, metavar=("FORMULATION", "B"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    labels, source = label_rows(options.labels)
    if options.peak:
        print(json.dumps(measure_peak(options.peak[0], labels, int(options.peak[1]))))
        return
    print(f"{source}: {len(labels):,} images, {(labels == 1).sum(1).mean():.2f} labels per image")
    print(f"K={K}, D={D}, {VIEWS} views; forward + backward; {torch.get_num_threads()} thread(s)")
    print(f"time: min / median / max of {REPEATS} repeats in turn")
    print("peak: what torch's allocator held above the inputs (torch.profiler) / growth of the resident set (VmHWM)\n")
    report: list[dict] = []
    bytes_per_pair = 32.0  # a first guess: four float matrices and their gradients; then as measured
    for size in (2, 4) if options.smoke else BATCHES:
        row = row_of(size, labels, options.labels, bytes_per_pair, options.smoke)
        if "times_faster" in row:
            bytes_per_pair = row[THEIRS]["peak_bytes"]["allocated"] / row["all rows"] ** 2
        if report:
            row["growth_per_doubling"] = grown(report[-1], row)
        report.append(row)
        show(row)
    rounds.save("losses", {"labels": source, "batches": report}, options.smoke)


if __name__ == "__main__":
    main()
