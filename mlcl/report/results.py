"""Reading what a test left behind: scores.npz, metrics.json, per_class.csv, and the run's metrics.csv."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlcl.analysis import Floats
from mlcl.runs.folders import beside
from mlcl.runs.results import Results as Results
from mlcl.runs.results import read as read_results

Curves = dict[str, tuple[Floats, Floats]]  # name -> x, y


def sigmoid(logits: Floats) -> Floats:
    """Probabilities of logits, without overflow at either end."""
    result: Floats = 0.5 * (1 + np.tanh(logits / 2))
    return result


def read(folder: Path) -> Results:
    """The results in a folder, with the counts that an older ``metrics.json`` lacks.

    Raises:
        MlclError: see :func:`mlcl.runs.results.read`.
    """
    results = read_results(folder)
    return replace(results, summary=_with_counts(results))


def _with_counts(results: Results) -> dict[str, Any]:
    """The summary; counts that an older or edited one lacks are made from the scores."""
    present = results.targets == 1
    counted = {
        "split": results.split,
        "metrics": results.metrics,
        "definitions": results.definitions,
        "checkpoint": None,
        "unknown_entries": int((results.targets < 0).sum()),
        "images_without_label": int((~present.any(1)).sum()),
        "classes_without_positives": [results.classes[k] for k in np.flatnonzero(~present.any(0))],
    }
    return counted | results.summary


@dataclass(frozen=True)
class TrainingLog:
    """The curves in a metrics.csv, over epochs (or steps, where no epoch is logged)."""

    xlabel: str
    losses: Curves
    metrics: Curves  # shares in percent
    rates: Curves


def training_log(folder: Path) -> TrainingLog | None:
    """The log of the run that these results belong to; None where there is none."""
    path = beside(folder, "metrics.csv")
    if path is None:
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restkey=""))
    except (OSError, ValueError, csv.Error):  # a damaged log costs the training curves, nothing else
        return None
    names = [name for name in (rows[0] if rows else ()) if name]
    columns = {name: np.array([_number(row.get(name)) for row in rows]) for name in names}
    steps, epochs = columns.get("step", np.arange(len(rows))), columns.get("epoch", np.full(len(rows), np.nan))
    x, xlabel = (steps, "step") if np.isnan(epochs).all() else (_in_epochs(steps, epochs), "epoch")
    curves = {name: (x[known], y[known]) for name, y in columns.items() if (known := ~np.isnan(y)).any()}
    trained = {name for name in curves if name.startswith("train/")}  # losses all, but for the validated ones
    validated = {f"val/{name}" for name in ("classification", *(n.removeprefix("train/") for n in trained))} & {*curves}
    shares = [name for name in ("val/mAP", "val/CF1", "val/OF1") if name in curves]
    return TrainingLog(
        xlabel,
        losses=_distinct({name: curves[name] for name in sorted(trained | validated)}),
        metrics={name: (curves[name][0], 100 * curves[name][1]) for name in shares},
        rates=_distinct({name: curve for name, curve in curves.items() if name.startswith("lr-")}),
    )


def _in_epochs(steps: Floats, epochs: Floats) -> Floats:
    """Where every step lies in epochs: 1 is the end of the first one, whose last logged step counts as its end."""
    numbers = np.unique(epochs[~np.isnan(epochs)])
    ends = np.array([steps[epochs == number].max() for number in numbers])
    places: Floats = np.interp(steps, [-1, *ends], [numbers[0], *(numbers + 1)])
    return places


def _distinct(curves: Curves) -> Curves:
    """Without those that repeat an earlier one: a single loss is also the total, parts often share a learning rate."""
    kept: Curves = {}
    for name, (x, y) in curves.items():
        if not any(np.array_equal(x, a) and np.array_equal(y, b) for a, b in kept.values()):
            kept[name] = (x, y)
    return kept


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
