"""``mlcl ensemble``: the mean of what several runs say of the same images, as results like those of a test."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit

from mlcl.analysis.frequency import by_frequency
from mlcl.comparison.folders import shown
from mlcl.comparison.frequency import not_compared
from mlcl.comparison.scores import align, variant
from mlcl.errors import MlclError
from mlcl.metrics import MultiLabelMetrics
from mlcl.runs import result_table
from mlcl.runs.folders import CONFIG
from mlcl.runs.result_files import per_class, summary_of, write_scores
from mlcl.runs.results import Results, read
from mlcl.system import yaml_text
from mlcl.system.files import write_whole


def ensemble(members: Sequence[Path], output: Path) -> None:
    """Write and print the results of an ensemble of evaluated runs, at least two.

    With the logits l, the temperature T and the thresholds t of each run::

        logit = mean of l / T,  temperature 1,  threshold = sigmoid(mean of log(t / (1 - t)))

    Raises:
        MlclError: for runs of other images, labels, classes or metric definitions, with the same scores, or that are
            ensembles themselves.
    """
    first = read(members[0])
    runs = [align(read(folder), first) for folder in members]
    _check(runs)
    logits = np.mean([run.logits.astype(np.float64) / run.temperature for run in runs], axis=0)
    thresholds = mean_thresholds(runs)
    fixed = all(isinstance(run.definitions.get("threshold"), int | float) for run in runs)
    threshold = float(thresholds[0]) if fixed else thresholds.tolist()
    metrics = MultiLabelMetrics(len(first.classes), threshold, *variant(first))
    metrics.update(torch.from_numpy(logits), torch.from_numpy(first.targets))
    metrics.compute()
    assert metrics.evaluation is not None
    evaluation = replace(metrics.evaluation, index=torch.from_numpy(first.index))
    summary: dict[str, Any] = {
        "split": first.split,
        "checkpoint": None,
        "members": [
            {"folder": shown(run.folder), "checkpoint": run.summary.get("checkpoint"), "mAP": run.metrics["mAP"]}
            for run in runs
        ],
        **summary_of(evaluation, first.classes),
    }
    seen, borders = (None if not_compared(runs) else first.frequency) or (None, ())
    if seen is not None and (groups := by_frequency(evaluation.class_ap.numpy(), seen, borders)):
        summary["frequency"] = groups
    data = {"data": first.config["data"]} if "data" in first.config else {}  # by which the report finds the pictures
    write_whole(output / CONFIG, yaml_text.dump(data))
    write_whole(output / "metrics.json", json.dumps(summary, indent=2))
    without = torch.full((len(first.classes),), torch.nan)  # there are no embeddings to spread
    write_whole(output / "per_class.csv", per_class(evaluation, first.classes, without, seen))
    write_scores(output / "scores.npz", evaluation, first.classes, _names(first))
    result_table.show(summary, evaluation, first.classes, output)


def mean_thresholds(runs: Sequence[Results]) -> NDArray[np.float64]:
    """(K,), the mean of the log-odds; thresholds that all runs share stay as they are."""
    each = np.stack([run.thresholds for run in runs])
    with np.errstate(invalid="ignore"):
        mean = expit(logit(each).mean(0))
    mean = np.where((each == each[0]).all(0), each[0], mean)
    if (undefined := np.isnan(mean)).any():
        name = runs[0].classes[int(undefined.argmax())]
        raise MlclError(f"the thresholds of {name} are 0 and 1 in two runs, which have no mean; calibrate them")
    return np.asarray(mean)


def _check(runs: Sequence[Results]) -> None:
    """Refuse members that would count twice."""
    for number, run in enumerate(runs):
        if run.summary.get("members"):
            raise MlclError(f"{shown(run.folder)} is an ensemble itself; give the runs that it is made of")
        for other in runs[:number]:
            if np.array_equal(run.logits, other.logits):
                raise MlclError(f"{shown(other.folder)} and {shown(run.folder)} hold the same scores; give one of them")


def _names(run: Results) -> list[str]:
    """The images' names by their position in the dataset; none where names or positions are unknown."""
    if not len(run.images) or run.index.min() < 0:
        return []
    names = np.full(int(run.index.max()) + 1, "", dtype=run.images.dtype)
    names[run.index] = run.images
    return [str(name) for name in names]
