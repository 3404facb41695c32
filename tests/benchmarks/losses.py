"""The label contrastive loss on present rows alone, against all pairs of rows: same value, time and peak memory.

python tests/benchmarks/losses.py [--labels FILE.npz]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mlcl.losses import LabelContrastiveLoss

K, D, VIEWS, BATCHES, REPEATS = 80, 512, 2, (16, 32, 64, 128, 256), 7
TEMPERATURE = LabelContrastiveLoss().temperature
LIMIT = 6e9  # bytes that one call may take; others work on the machine
REAL_LABELS = Path(__file__).parents[3] / "shared/data/labels/coco2014_val_labels.npz"


def all_pairs(embeddings: Tensor, targets: Tensor) -> Tensor:
    """The same loss as usually written: every (image, view, class) row against every other, masks tell who counts."""
    rows = F.normalize(embeddings, dim=-1).flatten(0, 2)
    present = (targets == 1)[:, None].expand(-1, VIEWS, -1).flatten()
    labels = torch.arange(K).repeat(len(targets) * VIEWS)
    similarity = rows @ rows.T / TEMPERATURE
    candidate = (present[:, None] & present).fill_diagonal_(False)
    positive = candidate & (labels[:, None] == labels)
    count = positive.sum(1)
    denominator = similarity.masked_fill(~candidate, torch.finfo(similarity.dtype).min).logsumexp(1)
    pulled = torch.where(positive, similarity - denominator[:, None], 0).sum(1) / count.clamp(min=1)
    return -pulled.sum() / (count > 0).sum().clamp(min=1)


FORMULATIONS = {"present rows": LabelContrastiveLoss(), "all pairs": all_pairs}


def call(name: str, embeddings: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Forward and backward: the value and the gradient of the embeddings."""
    value = FORMULATIONS[name](embeddings, targets)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return value.item(), gradient


def label_rows(file: Path | None) -> tuple[np.ndarray, str]:
    """Label rows (N, K) in {1, 0, -1}, and where they are from."""
    if file is None and REAL_LABELS.is_file():
        file = REAL_LABELS
    if file is not None:
        return np.load(file)["labels"], f"real labels, {file.name}"
    # COCO-2014 train: one class in 55 % of the images, the others from 0.16 % to 14 %; 2.94 labels per image.
    frequency = np.append(np.geomspace(0.00156, 0.137, K - 1), 0.55)
    rows = np.random.default_rng(0).random((20_000, K)) < frequency
    return rows.astype(np.int8), "generated labels with COCO's frequencies"


def batch(labels: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
    """Random embeddings and the labels of ``size`` random images, the same in every process."""
    chosen = np.random.default_rng(size).choice(len(labels), size, replace=False)
    embeddings = torch.randn(size, VIEWS, K, D, generator=torch.Generator().manual_seed(size), requires_grad=True)
    return embeddings, torch.from_numpy(labels[chosen].astype(np.int64))


def status(key: str) -> int:
    """VmRSS (resident now) or VmHWM (its highest level) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure_peak(name: str, labels: np.ndarray, size: int) -> None:
    """Print what one call adds, in bytes: resident memory of the process, and what torch's allocator handed out.

    Not ``getrusage``: its ru_maxrss cannot be set back, and a new process inherits that of its parent.
    """
    call(name, *batch(labels, 2))
    embeddings, targets = batch(labels, size)
    Path("/proc/self/clear_refs").write_text("5")  # the highest level starts again from here
    before = status("VmRSS")
    call(name, embeddings, targets)
    resident = status("VmHWM") - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call(name, embeddings, targets)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["args"]["Ev Idx"])
    allocated = int(np.cumsum([e["args"]["Bytes"] for e in memory]).max())
    print(json.dumps({"allocated": allocated, "resident": resident}))


def peak(name: str, size: int, file: Path | None) -> dict[str, int]:
    """:func:`measure_peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, str(size), *(["--labels", str(file)] if file else [])]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{name} at {size} images: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def available() -> int:
    """Bytes that the machine has left."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def times(names: list[str], embeddings: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Seconds of each formulation, in turn, after one call each; they must agree in value and gradient."""
    results = {name: call(name, embeddings, targets) for name in names}
    if len(names) == 2:
        (value, gradient), (expected, expected_gradient) = results.values()
        assert abs(value - expected) <= 1e-5 * abs(expected), (value, expected)
        assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()
    results.clear()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(REPEATS):
        for name in names:
            start = time.perf_counter()
            call(name, embeddings, targets)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main(file: Path | None) -> None:
    """Every batch size: peaks in fresh processes, then times in turn; a table, and runs/bench-losses.json."""
    labels, source = label_rows(file)
    print(f"{source}: {len(labels):,} images, {(labels == 1).sum(1).mean():.2f} labels per image")
    print(f"K={K}, D={D}, {VIEWS} views; forward + backward; {torch.get_num_threads()} thread(s)")
    print(f"time: min / median / max of {REPEATS} repeats in turn")
    print("peak: what torch's allocator held above the inputs (torch.profiler) / growth of the resident set (VmHWM)\n")
    report: list[dict] = []
    bytes_per_pair = 32.0  # a first guess: four float matrices and their gradients; then as measured
    for size in BATCHES:
        embeddings, targets = batch(labels, size)
        pairs = (size * VIEWS * K) ** 2
        needed = pairs * bytes_per_pair
        runs = needed <= min(LIMIT, 0.8 * available())
        names = ["present rows", "all pairs"] if runs else ["present rows"]
        peaks = {name: peak(name, size, file) for name in names}
        seconds = times(names, embeddings, targets)
        row: dict = {"B": size, "rows": int((targets == 1).sum()) * VIEWS, "all rows": size * VIEWS * K}
        for name in names:
            low, middle, high = min(seconds[name]), statistics.median(seconds[name]), max(seconds[name])
            row[name] = {"seconds_min_median_max": [low, middle, high], "peak_bytes": peaks[name]}
        if runs:
            bytes_per_pair = peaks["all pairs"]["allocated"] / pairs
            ours, theirs = row["present rows"], row["all pairs"]
            row["times_faster"] = theirs["seconds_min_median_max"][1] / ours["seconds_min_median_max"][1]
            row["times_smaller"] = theirs["peak_bytes"]["allocated"] / ours["peak_bytes"]["allocated"]
            row["times_smaller_resident"] = theirs["peak_bytes"]["resident"] / max(1, ours["peak_bytes"]["resident"])
        else:
            row["all pairs"] = f"not run, needs about {needed / 1e9:.0f} GB"
        if report:
            before, now = report[-1]["present rows"], row["present rows"]
            row["growth_per_doubling"] = {
                "time": now["seconds_min_median_max"][1] / before["seconds_min_median_max"][1],
                "allocated": now["peak_bytes"]["allocated"] / before["peak_bytes"]["allocated"],
            }
        report.append(row)
        show(row)
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-losses.json").write_text(json.dumps({"labels": source, "batches": report}, indent=2))


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, help=".npz with labels (N, 80) in {1, 0, -1}")
    parser.add_argument("--peak", nargs=2, metavar=("FORMULATION", "B"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        measure_peak(arguments.peak[0], label_rows(arguments.labels)[0], int(arguments.peak[1]))
    else:
        main(arguments.labels)
