"""The weights of present labels in binary cross-entropy (``--model.classification_loss.pos_weight``)."""

from typing import Any

import torch
from lightning import Callback

from mlcl.data.labels import counted
from mlcl.errors import MlclError
from mlcl.losses import BinaryCrossEntropy
from mlcl.system.console import say

_NAME = "model.classification_loss.pos_weight"


class PosWeight(Callback):
    """Computes those of ``auto`` from all labels of the training split, the same on every rank and after a resume."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the weights, or check how many were given."""
        loss, classes = pl_module.classification_loss, pl_module.network.num_classes
        given = loss.pos_weight if isinstance(loss, BinaryCrossEntropy) else None
        if isinstance(given, list) and len(given) != classes:
            raise MlclError(f"{_NAME} has {len(given)} numbers, there are {classes} classes")
        if given != "auto":
            return
        train = getattr(getattr(trainer, "datamodule", None), "splits", {}).get("train")
        if train is None:
            raise MlclError(f"{_NAME} auto counts the labels of a MultiLabelDataModule's training split; give numbers")
        found = counted(train.targets)
        weights = loss.set_weights(*(torch.from_numpy(n).to(pl_module.device) for n in (found.present, found.absent)))
        say(f"pos_weight: from {weights.min():.3g} to {weights.max():.3g}")
