"""The results of the test and validate verbs: metrics.json, per_class.csv, scores.npz and a table on the terminal."""

import csv
import io
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mlcl.analysis import frequency
from mlcl.analysis.probe import probe
from mlcl.callbacks import label_issues
from mlcl.callbacks.finite import broken_scores
from mlcl.callbacks.localise import CSV, Localise
from mlcl.data.labels import PRESENT
from mlcl.distributed import SharedError
from mlcl.errors import cell
from mlcl.metrics import Evaluation, MultiLabelMetrics
from mlcl.runs.results import LOCALISATION
from mlcl.system.files import write_whole

_SHOWN = 200  # classes in the table on the terminal; of more, the best and the worst
_NAMED = 20  # classes without AP
_GROUPS = ("head", "medium", "tail")


class Results(Callback):
    """Writes and prints the results of the test and validate verbs, not those of a training's validations."""

    def __init__(self, folder: Path, checkpoint: str | None = None, localise: Localise | None = None) -> None:
        self.folder, self.checkpoint, self.localise = folder, checkpoint, localise

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the metrics, which mean nothing if a logit is not finite."""
        _check(trainer, "test", pl_module.test_metrics)  # type: ignore[arg-type]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same; a training has :class:`mlcl.callbacks.Finite`."""
        if trainer.state.fn == "validate":
            _check(trainer, "val", pl_module.val_metrics)  # type: ignore[arg-type]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the test split."""
        self._report(trainer, "test", pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the validation split."""
        if trainer.state.fn == "validate":
            self._report(trainer, "val", pl_module)

    def _report(self, trainer: Trainer, split: str, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        metrics: MultiLabelMetrics = pl_module.test_metrics
        evaluation: Any = metrics.evaluation
        data, count, images = getattr(trainer, "datamodule", None), len(evaluation.index), []
        classes = list(getattr(data, "classes", None) or map(str, range(evaluation.logits.shape[1])))
        if data is not None:
            images = data.splits[split].names(data.root)
            evaluation = evaluation.without(data.skipped(split))
        per_class, seen = pl_module.spread.per_class[0], _train_positives(data)
        summary = {"split": split, "checkpoint": self.checkpoint, **_summary(evaluation, classes)}
        if skipped := count - len(evaluation.index):
            summary["skipped_images"] = skipped
        summary["embedding_spread"] = _plain(float(per_class.nanmean()))
        if seen is not None and data is not None:
            groups = frequency.by_frequency(evaluation.class_ap.numpy(), seen, data.frequency_borders)
            summary |= {"frequency": groups} if groups else {}
        cached = getattr(data, "cached", {})
        if "train" in cached and split in cached:  # a head on a frozen backbone was trained
            known, scored = cached["train"].pooled(), cached[split].pooled(evaluation.index)  # of a part, that part
            found = probe(*known, *scored, interpolation=metrics.interpolation)  # type: ignore[misc]
            if found:
                scores = {"validated": _plain(found.validated), "mAP": _plain(found.mAP)}
                summary["probe"] = {**asdict(found), **scores}
        for name in (CSV, LOCALISATION):  # of a run that went on since
            (self.folder / name).unlink(missing_ok=True)
        if self.localise is not None:
            how = evaluation, classes, metrics.interpolation
            summary["localisation"] = self.localise.write(self.folder, *how)
        summary["label_issues"] = label_issues.write(self.folder, evaluation, split, classes, images, data)
        write_whole(self.folder / "metrics.json", json.dumps(summary, indent=2))
        write_whole(self.folder / "per_class.csv", _per_class(evaluation, classes, per_class, seen))
        write_scores(self.folder / "scores.npz", evaluation, classes, images)
        _print(summary, evaluation, classes, self.folder)


def _train_positives(data: Any) -> frequency.Counts | None:
    """(K,) images in which each class is known to be present in training; None where there are none."""
    train = data.splits.get("train") if data is not None else None
    return np.count_nonzero(train.targets == PRESENT, axis=0) if train is not None and len(train.paths) else None


def _check(trainer: Trainer, split: str, metrics: MultiLabelMetrics) -> None:
    if broken := broken_scores(trainer, split, metrics):
        half = "" if trainer.precision == "32-true" else "try --trainer.precision 32-true, or "
        raise SharedError(f"{broken}; {half}give an earlier checkpoint")


def write_scores(path: Path, evaluation: Evaluation, classes: list[str], images: list[str]) -> None:
    """``scores.npz``, without pickle.

    logits (N, K), targets (N, K) int8, index and images (N,), classes and thresholds (K,), temperature ().
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


def _summary(evaluation: Evaluation, classes: list[str]) -> dict[str, Any]:
    positives, absences = evaluation.positives.tolist(), evaluation.absences.tolist()
    counted = list(zip(classes, positives, absences, strict=True))
    return {
        "N": len(evaluation.logits),
        "num_classes": len(classes),
        "metrics": {name: _plain(float(value)) for name, value in evaluation.values.items()},
        "definitions": evaluation.definitions,
        "unknown_entries": int(evaluation.unknown.sum()),
        "images_without_label": int((~(evaluation.targets == 1).any(1)).sum()),
        "classes_without_positives": [name for name, present, _ in counted if not present],
        "classes_without_absences": [name for name, present, absent in counted if present and not absent],
    }


def _per_class(evaluation: Evaluation, classes: list[str], spread: Tensor, seen: frequency.Counts | None = None) -> str:
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


def _print(summary: dict[str, Any], evaluation: Evaluation, classes: list[str], folder: Path) -> None:
    console = Console()
    console.print()  # ends the line of a progress bar
    metrics = summary["metrics"]
    table = Table(title=f"{summary['split']}: {summary['N']:,} images, {len(classes)} classes (percent)")
    names = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")
    for name in ("", *names):
        table.add_column(name, justify="right")
    table.add_row("all", *(_percent(metrics[name]) for name in names))
    table.add_row("top-3", "", *(_percent(metrics[f"{name}_top3"]) for name in names[1:]))
    console.print(table)
    console.print(_class_lines(evaluation, classes))
    if len(classes) > _SHOWN:
        console.print(f"  the best and the worst of {len(classes):,} classes; all are in per_class.csv")
    if groups := summary.get("frequency"):
        parts = [f"{name} {_percent(groups[name]['mAP'])} ({groups[name]['classes']:,} classes)" for name in _GROUPS]
        console.print(f"  mAP by training images: {', '.join(parts)}; {frequency.meaning(groups['borders'])}",
                      highlight=False)  # fmt: skip
    if summary.get("localisation", {}).get("positives"):
        console.print(_localised(summary["localisation"]))
    if found := summary.get("probe"):
        console.print(
            f"  to beat: mAP {_percent(found['mAP'])} by {found['kind']} heads on pooled features (penalty "
            f"{found['penalty']:g}, chosen by {min(5, found['images'])} folds of {found['images']:,} training images)",
            style="yellow" if (metrics["mAP"] or 0) < (found["mAP"] or 0) else None, highlight=False,
        )  # fmt: skip
    for name, meaning in summary["definitions"].items():
        console.print(f"  {name}: {meaning}", style="dim", highlight=False)
    for kind, what in (("positives", "no positive"), ("absences", "nothing known to be absent")):
        if names := summary[f"classes_without_{kind}"]:
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            console.print(f"  {what}, so no AP: {', '.join(names[:_NAMED])}{more}", style="yellow", highlight=False)
    if found := summary["label_issues"]:
        console.print(f"  labels that look wrong: {found:,}, in {label_issues.NAME}", highlight=False)
    console.print(f"results in {os.path.relpath(folder)}", highlight=False, soft_wrap=True)


def _localised(found: dict[str, Any]) -> Table:
    """Whether the attention of each class lies on its objects, over all positives and by the size of the object."""
    left_out = found["positives_without_region"]
    note = f"{left_out:,} positives have no mask or box" if left_out else None
    table = Table(title="attention on the objects, and AP by their size (percent)", caption=note)
    by = {"energy": "chance", "gain": "", "pointing": "pointing_chance", "specificity": "", "AP": "AP_chance"}
    for name in ("", "positives", *by):
        table.add_column(name, justify="right", no_wrap=True)
    for size, row in {"all": found, **found["sizes"]}.items():
        if row["positives"]:
            for label, number, names in ((size, f"{row['positives']:,}", by), ("chance", "", by.values())):
                table.add_row(label, number, *(_percent(row[name]) if name in row else "" for name in names))
    return table


def _class_lines(evaluation: Evaluation, classes: list[str]) -> Columns:
    """AP and number of positives of every class, best first, in columns; of very many classes, both ends."""
    aps, counts = evaluation.class_ap.tolist(), evaluation.positives.tolist()
    ranked = sorted(range(len(classes)), key=lambda k: -1.0 if math.isnan(aps[k]) else aps[k], reverse=True)
    if len(ranked) > _SHOWN:
        measured = [k for k in ranked if not math.isnan(aps[k])] or ranked
        ranked = [*measured[: _SHOWN // 2], *measured[_SHOWN // 2 :][-_SHOWN // 2 :]]
    longest = max(len(classes[k]) for k in ranked)
    lines = [Text(f"{classes[k]:<{longest}} {_percent(aps[k]):>6}  n={counts[k]}", no_wrap=True) for k in ranked]
    return Columns(lines, padding=(0, 3), equal=True, column_first=True, title="AP and positives of each class")


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.2f}"
