"""Writing what an evaluation leaves: the numbers of ``metrics.json``, ``per_class.csv`` and ``scores.npz``."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mlcl.analysis.frequency import Counts
from mlcl.analysis.measures import Evaluation
from mlcl.errors import cell
from mlcl.system.files import write_whole


def write_scores(path: Path, evaluation: Evaluation, classes: list[str], images: list[str]) -> None:
    """``scores.npz``, without pickle.

    logits (N, K), targets (N, K) int8, index and images (N,), classes and thresholds (K,), temperature (). The names of
    the images are given by their position in the dataset; none for data without files.
    """
    index = evaluation.index.cpu().numpy()
    arrays = {
        "logits": evaluation.logits.cpu().numpy(),
        "targets": evaluation.targets.cpu().numpy(),
        "index": index,
        "classes": np.array(classes),
        "images": np.array(images)[index] if images else np.array([], dtype=str),
        "thresholds": evaluation.thresholds.numpy(),
        "temperature": np.float64(evaluation.temperature),
    }
    write_whole(path, lambda partial: np.savez_compressed(partial, **arrays))  # type: ignore[arg-type]


def summary_of(evaluation: Evaluation, classes: list[str]) -> dict[str, Any]:
    """What ``metrics.json`` says of every evaluation."""
    positives, absences = evaluation.positives.tolist(), evaluation.absences.tolist()
    counted = list(zip(classes, positives, absences, strict=True))
    return {
        "N": len(evaluation.logits),
        "num_classes": len(classes),
        "metrics": {name: plain(float(value)) for name, value in evaluation.values.items()},
        "definitions": evaluation.definitions,
        "unknown_entries": int(evaluation.unknown.sum()),
        "images_without_label": int((~(evaluation.targets == 1).any(1)).sum()),
        "classes_without_positives": [name for name, present, _ in counted if not present],
        "classes_without_absences": [name for name, present, absent in counted if present and not absent],
    }


def per_class(evaluation: Evaluation, classes: list[str], spread: Tensor, seen: Counts | None = None) -> str:
    """``per_class.csv``; the spread of the embeddings is (K,), NaN where there are none.

    ``seen`` (K,) are the training images with each class.
    """
    columns: dict[str, Any] = {
        "AP": evaluation.class_ap, "positives": evaluation.positives, "unknown": evaluation.unknown, "spread": spread,
        "threshold": evaluation.thresholds, **({} if seen is None else {"train_positives": seen}),
    }  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *columns])
    rows = zip(map(cell, classes), *(column.tolist() for column in columns.values()), strict=True)
    writer.writerows(["" if value != value else value for value in row] for row in rows)  # nan is not itself
    return text.getvalue()


def plain(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if math.isnan(value) else value
