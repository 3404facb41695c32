"""``label_issues.csv``: labels that are probably wrong, of the evaluated images and, with cached features, of train."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlcl.analysis import label_issues
from mlcl.analysis.probe import held_out_logits
from mlcl.data.groups import together
from mlcl.errors import cell
from mlcl.metrics import Evaluation
from mlcl.runs.results import LABEL_ISSUES
from mlcl.system.files import write_whole

_LABELS = {1: "present", 0: "absent"}


def write(folder: Path, evaluation: Evaluation, split: str, classes: list[str], images: list[str], data: Any) -> int:
    """Write the list, and return the number of its rows.

    The evaluated images are judged by the network's scores, the training images, where the features of a frozen
    backbone are cached, by heads that were fitted without them. An image that is also in the training split is judged
    with those only.

    Args:
        folder: of the results.
        evaluation: of the split.
        split: its name.
        classes: K names.
        images: names of all images of the split, by position; empty for a dataset without files.
        data: the datamodule, or None.
    """
    splits = getattr(data, "splits", {})
    index, kept = evaluation.index.numpy(), np.ones(len(evaluation.index), dtype=bool)
    names = np.array(images)[index] if images else index.astype(str)
    if images and "train" in splits:
        kept = ~splits[split].among(splits["train"])[index]
    rows: list[Any] = _rows(
        split, evaluation.logits.numpy()[kept], evaluation.targets.numpy()[kept], names[kept], classes
    )
    features: Any = getattr(data, "cached", {}).get("train")
    if features is not None:
        read = np.flatnonzero(features.rows["read"][: len(features)])
        samples = features.samples.take(read)
        pooled, targets = features.pooled(torch.from_numpy(read))
        logits = held_out_logits(pooled, targets, torch.from_numpy(together(samples.paths, samples.groups)))
        if logits is not None:
            rows += _rows("train", logits.numpy(), targets.numpy(), np.array(samples.names(data.root)), classes)
    rows.sort(key=lambda row: float(row[-1]), reverse=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "image", "class", "label", "doubt"])
    writer.writerows(rows)
    # File names that are not UTF-8 are written with the bytes they have on disk.
    write_whole(folder / LABEL_ISSUES, text.getvalue().encode(errors="surrogateescape"))
    return len(rows)


def _rows(split: str, logits: Any, targets: Any, names: Any, classes: list[str]) -> list[Any]:
    found = label_issues.find(logits, targets)
    return [
        (split, cell(str(names[row])), cell(classes[k]), _LABELS[int(targets[row, k])], round(float(doubt), 4))
        for row, k, doubt in zip(found.rows, found.classes, found.doubt, strict=True)
    ]
