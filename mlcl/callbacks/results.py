"""The results of the test and validate verbs: metrics.json, per_class.csv, scores.npz and a table on the terminal."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mlcl.analysis import frequency
from mlcl.analysis.probe import probe
from mlcl.callbacks import label_issues
from mlcl.callbacks.finite import broken_scores
from mlcl.callbacks.localise import CSV, Localise
from mlcl.data import bad_images
from mlcl.data.labels import counted
from mlcl.distributed import SharedError
from mlcl.metrics import MultiLabelMetrics
from mlcl.runs import result_table
from mlcl.runs.result_files import per_class, plain, summary_of, write_scores
from mlcl.runs.results import LOCALISATION
from mlcl.system.files import write_whole


class Results(Callback):
    """Writes and prints the results of the test and validate verbs, not those of a training's validations."""

    def __init__(self, folder: Path, checkpoint: str | None = None, localise: Localise | None = None) -> None:
        self.folder, self.checkpoint, self.localise = folder, checkpoint, localise

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the metrics, which mean nothing if a logit is not finite."""
        _share_bad_images(trainer)
        _check(trainer, "test", pl_module.test_metrics)  # type: ignore[arg-type]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same; a training has :class:`mlcl.callbacks.Finite`."""
        _share_bad_images(trainer)
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
        spread, seen = pl_module.spread.per_class[0], _train_positives(data)
        summary = {"split": split, "checkpoint": self.checkpoint, **summary_of(evaluation, classes)}
        if (tta := pl_module.network.tta) != "none":
            summary["tta"] = tta
        if skipped := count - len(evaluation.index):
            summary["skipped_images"] = skipped
        summary["embedding_spread"] = plain(float(spread.nanmean()))
        if seen is not None and data is not None:
            groups = frequency.by_frequency(evaluation.class_ap.numpy(), seen, data.frequency_borders)
            summary |= {"frequency": groups} if groups else {}
        cached = getattr(data, "cached", {})
        if "train" in cached and split in cached:  # a head on a frozen backbone was trained
            known, scored = cached["train"].pooled(), cached[split].pooled(evaluation.index)  # of a part, that part
            found = probe(*known, *scored, interpolation=metrics.interpolation)  # type: ignore[misc]
            if found:
                scores = {"validated": plain(found.validated), "mAP": plain(found.mAP)}
                summary["probe"] = {**asdict(found), **scores}
        for name in (CSV, LOCALISATION):  # of a run that went on since
            (self.folder / name).unlink(missing_ok=True)
        if self.localise is not None:
            how = evaluation, classes, metrics.interpolation
            summary["localisation"] = self.localise.write(self.folder, *how)
        summary["label_issues"] = label_issues.write(self.folder, evaluation, split, classes, images, data)
        write_whole(self.folder / "metrics.json", json.dumps(summary, indent=2))
        write_whole(self.folder / "per_class.csv", per_class(evaluation, classes, spread, seen))
        write_scores(self.folder / "scores.npz", evaluation, classes, images)
        result_table.show(summary, evaluation, classes, self.folder)


def _train_positives(data: Any) -> frequency.Counts | None:
    """(K,) images in which each class is known to be present in training; None where there are none."""
    train = data.splits.get("train") if data is not None else None
    return counted(train.targets).present if train is not None and len(train.paths) else None


def _share_bad_images(trainer: Trainer) -> None:
    if (file := getattr(getattr(trainer, "datamodule", None), "bad_list", None)) is not None:
        bad_images.share(file)


def _check(trainer: Trainer, split: str, metrics: MultiLabelMetrics) -> None:
    if broken := broken_scores(trainer, split, metrics):
        half = "" if trainer.precision == "32-true" else "try --trainer.precision 32-true, or "
        raise SharedError(f"{broken}; {half}give an earlier checkpoint")
