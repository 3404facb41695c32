"""``--localise true``: where each class looked, against where its objects are, in a test or validation by itself."""

import csv
import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mlcl.analysis import localisation
from mlcl.analysis.localisation import MEASURES, SIZES, Covered, Localisation
from mlcl.analysis.measures import Evaluation
from mlcl.distributed import SharedError, gather_objects
from mlcl.errors import cell
from mlcl.runs.results import LOCALISATION
from mlcl.system.console import say
from mlcl.system.files import write_whole

CSV = "localisation.csv"
DEFINITIONS = {
    "energy": "share of the attention on the objects of its class; chance is that of the same attention everywhere",
    "gain": "(energy - chance) / (1 - chance)",
    "pointing": "share of positives whose highest cell's centre is within 15 pixels of an object",
    "specificity": "energy minus the mean energy on the objects of the other classes in the image",
    "means": "over the positives of a class, then over classes",
    "sizes": "of the class's largest object in the picture: small below 32 x 32 pixels, large from 96 x 96 on",
    "AP of a size": "positives of other sizes are unknown; chance is the share of positives",
}


class Localise(Callback):
    """Collects the attention of every positive, and measures it at the end of the epoch; ``found`` holds the result."""

    def __init__(self) -> None:
        self.found: Localisation | None = None
        self.covered: Covered | None = None
        self._hook: Any = None
        self._maps: Tensor | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the head."""
        self._seen, self.found, self.covered = [], None, None
        self._hook = pl_module.network.head.register_forward_hook(self._keep)  # type: ignore[union-attr, operator]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for the verb validate; a training's validations are not measured."""
        if trainer.state.fn == "validate":
            self.on_test_start(trainer, pl_module)

    def _keep(self, head: Any, inputs: tuple[Tensor], output: Any) -> None:
        self._maps = head.saliency(inputs[0], output)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the maps of the classes that are present: of COCO's 80 classes 3 per image."""
        if self._hook is None:
            return
        if self._maps is None:
            name = type(pl_module.network.head).__name__  # type: ignore[union-attr]
            raise SharedError(f"--localise true: the head {name} does not say where it looks; test without")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.covered is None:  # now, not after an hour
            height, width = self._maps.shape[-2:]
            self.covered = data.coverage(_split(trainer), (height, width))
        rows, classes = (batch["target"] == 1).nonzero(as_tuple=True)
        self._seen.append((batch["index"][rows].cpu(), classes.cpu(), self._maps[rows, classes].float().cpu()))
        self._maps = None

    on_validation_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure each rank's positives and put them together."""
        if self._hook is None:
            return
        self._hook.remove()
        self._hook, covered = None, self.covered
        own, broken = None, ""
        if covered is not None and self._seen:
            index, classes, maps = (torch.cat(parts).numpy() for parts in zip(*self._seen, strict=True))
            try:
                own = localisation.measure(index, classes, maps, covered)
            except ValueError as error:
                broken = str(error)
        self._seen = []
        several = gather_objects((own, broken))
        if reasons := [reason for _, reason in several if reason]:
            raise SharedError(f"--localise true: the head's maps cannot be measured: {reasons[0]}")
        if parts := [part for part, _ in several if part is not None]:
            self.found = localisation.merged(parts)

    on_validation_epoch_end = on_test_epoch_end

    def write(self, folder: Path, evaluation: Evaluation, classes: list[str], interpolation: Any) -> dict[str, Any]:
        """Write ``localisation.csv`` and ``.npz`` of what was found; returns the summary for ``metrics.json``."""
        found, covered = self.found, self.covered
        if found is None or covered is None or not len(found.index):
            say("--localise true: no positive of these images has a mask or box that fits, so nothing is measured")
            return {"positives": 0, "positives_without_region": int((evaluation.targets == 1).sum())}
        arrays = {name: getattr(found, name) for name in (*(field.name for field in fields(found)), "gain")}
        write_whole(folder / LOCALISATION, lambda partial: np.savez_compressed(partial, **arrays))
        means = {name: found.class_means(name, len(classes)) for name in MEASURES}
        scored = evaluation.logits, evaluation.targets, evaluation.index
        sizes = {}
        for size in SIZES:
            ap, chance = localisation.ap_of_size(*scored, covered, size, interpolation)
            means |= {f"AP_{size}": ap, f"AP_chance_{size}": chance}
            sizes[size] = {
                "positives": int(localisation.of_size(found.area, size).sum()),
                **{name: _mean(found.class_means(name, len(classes), size)) for name in MEASURES},
                "AP": _mean(ap), "AP_chance": _mean(chance),
            }  # fmt: skip
        number = np.bincount(found.classes, minlength=len(classes))
        write_whole(folder / CSV, _table(classes, number, means))
        return {
            "positives": len(found.index),
            "positives_without_region": int((evaluation.targets == 1).sum()) - len(found.index),
            **{name: _mean(means[name]) for name in MEASURES},
            "sizes": sizes,
            "definitions": DEFINITIONS,
        }


def _split(trainer: Trainer) -> str:
    return "test" if trainer.testing else "val"


def _mean(values: Any) -> float | None:
    """Over the classes that have a number."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _table(classes: list[str], number: Any, means: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "positives", *means])
    rows = zip(map(cell, classes), number.tolist(), *(column.tolist() for column in means.values()), strict=True)
    writer.writerows(["" if value != value else value for value in row] for row in rows)  # nan is not itself
    return text.getvalue()
