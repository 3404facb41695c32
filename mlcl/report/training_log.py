"""The training curves in a run's ``metrics.csv``."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlcl.analysis.evaluation import Floats
from mlcl.runs.folders import beside

Curves = dict[str, tuple[Floats, Floats]]  # name -> x, y


@dataclass(frozen=True)
class TrainingLog:
    """Curves over epochs, or over steps where no epoch is logged."""

    xlabel: str
    losses: Curves
    metrics: Curves  # in percent
    rates: Curves


def training_log(folder: Path) -> TrainingLog | None:
    """Read the log of the run that a folder of results belongs to; None where there is none, or it is damaged."""
    path = beside(folder, "metrics.csv")
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names, *lines = csv.reader(file)
        rows = np.array([[float(text or "nan") for text in line] for line in lines]).reshape(-1, len(names))
    except (OSError, ValueError, csv.Error):  # the report does without training curves
        return None
    columns = dict(zip(names, rows.T, strict=True))
    steps, epochs = columns.get("step", np.arange(len(rows))), columns.get("epoch", np.full(len(rows), np.nan))
    x, xlabel = (steps, "step") if np.isnan(epochs).all() else (_in_epochs(steps, epochs), "epoch")
    curves = {name: (x[known], y[known]) for name, y in columns.items() if (known := ~np.isnan(y)).any()}
    trained = {name for name in curves if name.startswith("train/")}  # all of them losses
    validated = {f"val/{name}" for name in ("classification", *(n.removeprefix("train/") for n in trained))} & {*curves}
    shares = [name for name in ("val/mAP", "val/CF1", "val/OF1") if name in curves]
    return TrainingLog(
        xlabel,
        losses=_distinct({name: curves[name] for name in sorted(trained | validated)}),
        metrics={name: (curves[name][0], 100 * curves[name][1]) for name in shares},
        rates=_distinct({name: curve for name, curve in curves.items() if name.startswith("lr-")}),
    )


def _in_epochs(steps: Floats, epochs: Floats) -> Floats:
    """Steps as epochs; an epoch's last logged step counts as its end, which is 1 for the first epoch."""
    numbers = np.unique(epochs[~np.isnan(epochs)])
    ends = np.array([steps[epochs == number].max() for number in numbers])
    return np.asarray(np.interp(steps, [-1, *ends], [numbers[0], *(numbers + 1)]))


def _distinct(curves: Curves) -> Curves:
    """Without repeated curves: a single loss is also the total, and parts often share a learning rate."""
    kept: Curves = {}
    for name, (x, y) in curves.items():
        if not any(np.array_equal(x, a) and np.array_equal(y, b) for a, b in kept.values()):
            kept[name] = (x, y)
    return kept
