"""Average precision at COCO's size, as a ratio to scikit-learn and torchmetrics in the same run; OpenImages' size.

make bench
python tests/benchmarks/metrics.py --large [IMAGES CLASSES]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import multilabel_average_precision

from mlcl.metrics import MultiLabelMetrics, average_precision

N, K, REPEATS = 40_504, 80, 5
LARGE = (125_000, 9_600)


def main() -> None:
    """Run every formulation in turn, several times; print medians, spread and ratios, and write them as JSON."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.logspace(-2.5, -0.3, K)  # from rare to every second image, as in COCO
    targets = (torch.rand(N, K, generator=generator) < frequency).long()
    scores = torch.randn(N, K, generator=generator) + 2.5 * targets

    def all_numbers() -> float:
        metrics = MultiLabelMetrics(K)
        for start in range(0, N, 64):
            rows = torch.arange(start, min(start + 64, N))
            metrics.update(scores[rows], targets[rows], rows)
        return float(metrics.compute()["mAP"])

    formulations: dict[str, Callable[[], float]] = {
        "mlcl average_precision": lambda: float(average_precision(scores, targets).mean()),
        "mlcl all 13 numbers, 633 updates": all_numbers,
        "scikit-learn, per class": lambda: float(average_precision_score(targets.numpy(), scores.numpy())),
        "torchmetrics functional, exact": lambda: float(
            multilabel_average_precision(scores, targets, K, thresholds=None)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in formulations}
    values = {}
    for _ in range(REPEATS):
        for name, formulation in formulations.items():
            start = time.perf_counter()
            values[name] = formulation()
            seconds[name].append(time.perf_counter() - start)
    reference = statistics.median(seconds["scikit-learn, per class"])
    report = {
        name: {
            "mAP": values[name],
            "seconds_min_median_max": [min(times), statistics.median(times), max(times)],
            "times_faster_than_scikit_learn": reference / statistics.median(times),
        }
        for name, times in seconds.items()
    }
    print(f"{N:,} images x {K} classes, {REPEATS} repeats in turn, {torch.get_num_threads()} thread(s)")
    for name, row in report.items():
        low, middle, high = row["seconds_min_median_max"]  # type: ignore[misc]
        ratio = row["times_faster_than_scikit_learn"]
        print(f"  {name:34} {low:7.3f} / {middle:7.3f} / {high:7.3f} s   x{ratio:5.2f}   mAP {row['mAP']:.8f}")
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-metrics.json").write_text(json.dumps(report, indent=2))


def batch(start: int, size: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits as mixed precision gives them, with many ties; rare classes, a tenth of the entries unknown."""
    generator = torch.Generator().manual_seed(start)
    chance = torch.rand(size, classes, generator=generator)
    targets = (chance < torch.logspace(-4, -1.5, classes)).to(torch.int8)
    logits = torch.randn(size, classes, generator=generator) + 2.5 * targets - 2
    return logits.bfloat16().float(), targets.masked_fill_(chance > 0.9, -1)


def peak() -> float:
    """Highest resident memory of this process so far, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) / 1e9


def large(images: int, classes: int) -> None:
    """All 13 numbers of a split that comes batch by batch: time, peak memory, and parts of it computed anew, slowly."""
    print(f"{images:,} images x {classes:,} classes, {torch.get_num_threads()} thread(s)")
    metrics, seconds = MultiLabelMetrics(classes), 0.0
    for start in range(0, images, 64):
        rows = torch.arange(start, min(start + 64, images))
        logits, targets = batch(start, len(rows), classes)
        begun = time.perf_counter()
        metrics.update(logits, targets, rows)
        seconds += time.perf_counter() - begun
    del logits, targets
    print(f"  all updates  {seconds:7.1f} s   peak so far {peak():5.2f} GB, of which logits and targets are "
          f"{images * classes * 5 / 1e9:.2f}", flush=True)  # fmt: skip
    begun, used = time.perf_counter(), time.process_time()
    values = metrics.compute()
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    print(f"  compute      {seconds:7.1f} s   peak        {peak():5.2f} GB   ({used:.1f} s of CPU time)", flush=True)
    print("  " + "  ".join(f"{name} {100 * value:.3f}" for name, value in values.items()))
    evaluation, generator = metrics.evaluation, np.random.default_rng(0)
    assert evaluation is not None and len(evaluation.logits) == images
    difference = 0.0
    for k in generator.choice(np.flatnonzero(evaluation.positives), 20, replace=False):
        known = evaluation.targets[:, k] >= 0
        expected = average_precision_score(evaluation.targets[known, k] == 1, evaluation.logits[known, k].numpy())
        difference = max(difference, abs(evaluation.class_ap[k].item() - expected))
    print(f"  AP of 20 random classes: at most {difference:.1e} from scikit-learn's")
    assert difference < 1e-12
    some = np.ix_(generator.choice(images, 500, replace=False), generator.choice(classes, min(400, classes), False))
    logits, targets = evaluation.logits.numpy()[some], evaluation.targets.numpy()[some]
    subset = MultiLabelMetrics(targets.shape[1])
    subset.update(torch.from_numpy(logits), torch.from_numpy(targets))
    values = subset.compute()
    for name, expected in slow_f1_family(logits.astype(float).tolist(), targets.tolist()).items():
        difference = max(difference, abs(values[name].item() - expected))
    print(
        f"  F1 family of {targets.shape[0]} x {targets.shape[1]} random entries: at most {difference:.1e} from a loop's"
    )
    assert difference < 1e-12


def slow_f1_family(logits: list[list[float]], targets: list[list[int]]) -> dict[str, float]:
    """By the definition, entry after entry."""
    classes, values = range(len(targets[0])), {}
    for name, most in (("", len(classes)), ("_top3", 3)):
        hits, claimed, present = ([0] * len(classes) for _ in range(3))
        for row, labels in zip(logits, targets, strict=True):
            known = sorted((k for k in classes if labels[k] >= 0), key=lambda k: -row[k])
            for place, k in enumerate(known):
                predicted = place < most and 1 / (1 + np.exp(-row[k])) >= 0.5
                hits[k] += predicted and labels[k] == 1
                claimed[k] += predicted
                present[k] += labels[k] == 1
        counted = [k for k in classes if present[k]]
        precision = sum(hits[k] / claimed[k] if claimed[k] else 0 for k in counted) / len(counted)
        recall = sum(hits[k] / present[k] for k in counted) / len(counted)
        pairs = {"C": (precision, recall), "O": (sum(hits) / max(1, sum(claimed)), sum(hits) / sum(present))}
        for letter, (p, r) in pairs.items():
            f1 = 2 * p * r / (p + r) if p + r else 0.0
            values |= {f"{letter}P{name}": p, f"{letter}R{name}": r, f"{letter}F1{name}": f1}
    return values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", nargs="*", type=int, metavar="N", help="images and classes instead of OpenImages'")
    arguments = parser.parse_args()
    if arguments.large is None:
        main()
    else:
        large(*(arguments.large or LARGE))
