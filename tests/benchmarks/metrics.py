"""Average precision at COCO's size, as a ratio to scikit-learn and torchmetrics in the same run.

make bench
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import multilabel_average_precision

from mlcl.metrics import MultiLabelMetrics, average_precision

N, K, REPEATS = 40_137, 80, 5


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
        "mlcl all 13 numbers, 628 updates": all_numbers,
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


if __name__ == "__main__":
    main()
