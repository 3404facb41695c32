"""What unknown labels count as in the classification loss (``--model.unknown``), by the epoch, with a memory."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from mlcl.data import MultiLabelDataModule
from mlcl.data.dataset import Samples
from mlcl.distributed import SharedError, gather
from mlcl.errors import MlclError
from mlcl.losses.unknown import LEFT_OUT, UNKNOWN, Rule, corrected_share, largest, loss_with_unknown
from mlcl.system.console import say


class UnknownLabels(Callback):
    """Computes the classification loss of a step by a rule of :mod:`mlcl.losses.unknown`.

    ``large_loss_permanent`` remembers its corrections: the state in a checkpoint lists them, as (image, class) pairs.

    Args:
        rule: for unknown labels.
        weight: of the rule; None is its default, see there.
    """

    def __init__(self, rule: Rule, weight: float | None = None) -> None:
        if rule in ("ignore", "negative") and weight is not None:
            raise MlclError(f"model.unknown_weight is {weight}, but model.unknown {rule} has no weight")
        most = float("inf") if rule == "entropy" else 1
        if weight is not None and not 0 <= weight <= most:
            raise MlclError(f"model.unknown_weight is {weight}, it must lie in [0, {most:g}]")
        self.rule, self.weight, self.epoch = rule, weight, 0
        self.corrected: Tensor | None = None  # (N + 1, K) bool; the last row, for images without a position, is empty
        self._restored: dict[str, Any] = {}
        self._files = ""  # digest of the training images' names

    def loss(self, pl_module: Any, logits: Tensor, targets: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The classification loss of a whole step; each view of an image counts as an image.

        Args:
            pl_module: with the classification loss.
            logits: (B, V, K) of all ranks.
            targets: (B, K) of all ranks, in {1, 0, -1}.
            batch: this rank's, with ``index`` for a rule with a memory, ``shown`` (B, S), the positions of a splice's
                tiles, where there are splices, and ``readable`` where pictures may be skipped.
        """
        equal = pl_module.equal_batches
        if self.rule != "ignore" and "readable" in batch:  # what could not be read shows no absence
            unread = gather(batch["readable"], equal)[:, None] == 0
            targets = targets.masked_fill(unread & (targets == UNKNOWN), LEFT_OUT)  # a splice's other tiles count
        if self.rule == "large_loss_permanent":
            if "index" not in batch:
                raise MlclError("model.unknown large_loss_permanent needs the positions of the images, batch['index']")
            index, shown = (gather(batch[name], equal) for name in ("index", "shown" if "shown" in batch else "index"))
            targets = self._correct(logits, targets, index, shown.view(len(index), -1))
        rows = targets.repeat_interleave(logits.shape[1], 0)
        loss = pl_module.classification_loss
        return loss_with_unknown(loss, logits.flatten(0, 1), rows, self.rule, self.weight, self.epoch)

    @torch.no_grad()
    def _correct(self, logits: Tensor, targets: Tensor, index: Tensor, shown: Tensor) -> Tensor:
        """The targets with what was corrected before, and now: an entry if it is among the largest in any view.

        A splice takes over the corrections of the images that it shows, (B, S); it has none of its own, as its
        ``index`` is -1.
        No shape depends on a value, so that the host does not wait for the device.
        """
        if self.corrected is not None:
            targets = targets.masked_fill((targets == UNKNOWN) & self.corrected[shown].any(1), 1)
        share, rows = corrected_share(self.weight, self.epoch), targets.repeat_interleave(logits.shape[1], 0)
        if not share:
            return targets
        found = largest(logits.flatten(0, 1), rows, share).view(logits.shape).any(1)
        if self.corrected is not None:
            positions, classes = self.corrected.shape
            place = (index % positions)[:, None] * classes + torch.arange(classes, device=index.device)
            nowhere = positions * classes - 1  # -1, an image without a position, is the last row, too
            self.corrected.view(-1).index_fill_(0, torch.where(found, place, nowhere).flatten(), True)
            self.corrected[-1].fill_(False)
        return targets.masked_fill(found, 1)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse data whose images have no positions to remember."""
        if self.rule == "large_loss_permanent" and _training_images(trainer) is None:
            raise SharedError("model.unknown large_loss_permanent remembers training labels of a MultiLabelDataModule")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the memory, of the size of the training labels, and fill in what the checkpoint lists."""
        restored, self._restored = self._restored, {}
        if self.rule != "large_loss_permanent" or (train := _training_images(trainer)) is None:
            return
        images, classes = train.targets.shape
        self._files = _digest(train.names(trainer.datamodule.root))
        if restored and (restored["shape"], restored["files"]) != ([images, classes], self._files):
            raise SharedError(
                f"the checkpoint has corrected labels (model.unknown) of {restored['shape'][0]:,} training images and "
                f"{restored['shape'][1]:,} classes, here are {images:,} and {classes:,}, or other images"
            )
        self.corrected = torch.zeros(images + 1, classes, dtype=torch.bool, device=pl_module.device)
        if restored:
            image, label = restored["entries"].long().to(pl_module.device).unbind(1)
            self.corrected[image, label] = True

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """By the number of the epoch alone."""
        self.epoch = trainer.current_epoch

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say how many labels were corrected for good."""
        self.epoch = 0
        if self.corrected is not None:
            say(f"model.unknown: {int(self.corrected.sum()):,} unknown labels were corrected to present ones")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget, once the last checkpoint is written."""
        self.corrected = None

    def state_dict(self) -> dict[str, Any]:
        """The corrected entries (M, 2) int32, image and class, and what they are of."""
        if self.corrected is None:
            return self._restored
        images, classes = self.corrected.shape
        return {"entries": self.corrected.nonzero().int().cpu(), "shape": [images - 1, classes], "files": self._files}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until the size of the training labels is known."""
        self._restored = state_dict if self.rule == "large_loss_permanent" else {}


def _training_images(trainer: Any) -> Samples | None:
    """Those of the training split; None for other data."""
    data = getattr(trainer, "datamodule", None)
    return data.splits.get("train") if isinstance(data, MultiLabelDataModule) else None


def _digest(names: Sequence[str]) -> str:
    """Of names in their order, since the memory is by position."""
    return hashlib.blake2b("\n".join(names).encode(errors="surrogateescape"), digest_size=16).hexdigest()
