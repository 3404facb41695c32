"""A training that computes with nan or infinity stops and says where it began; no checkpoint of it is written."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from mlcl.data.splice import NO_IMAGE
from mlcl.distributed import SharedError, gather, gather_objects, rank, world_size
from mlcl.metrics import MultiLabelMetrics
from mlcl.system.console import say

_HOPELESS = 50  # fp16 overflows in a row; the scale has fallen to 2 ** -50 of what it was


class _Step(NamedTuple):
    """Values of a training step, on its device: reading them would make the host wait."""

    number: int  # of the optimizer step, from 0, as in metrics.csv
    epoch: int
    images: Tensor | None  # (B,) positions in the dataset
    names: tuple[str, ...]  # of the loss terms
    values: Tensor  # (number of names + 1,) float32: loss terms, then the largest absolute gradient
    own: Tensor | None  # whether the logits of this rank are finite; the loss terms are those of all ranks


class Finite(Callback):
    """Stops a training at the first loss term or gradient that is not finite.

    The values of the last steps are read together, in the steps that are logged and before a validation or checkpoint.
    Under ``16-mixed`` the scaler skips the step of an overflow, and ``gradient/overflows`` counts it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset."""
        self._steps: list[_Step] = []
        self._window = trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        self._scales = getattr(trainer.precision_plugin, "scaler", None) is not None
        self._zero = torch.zeros((), device=pl_module.device)
        self._number, self._gradient, self._overflows, self._in_a_row = trainer.global_step, self._zero, self._zero, 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take the largest gradient: a sum of squares overflows before its parts do."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._gradient = get_total_norm(gradients, math.inf).float()
        if self._scales:
            self._overflows = self._overflows + (~self._gradient.isfinite()).float()
            pl_module.log("gradient/overflows", self._overflows)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the values of the step, and read those of the last ones every so often."""
        if not isinstance(outputs, Mapping):
            return
        terms = {k: v.detach().float() for k, v in outputs.items() if isinstance(v, Tensor) and v.numel() == 1}
        values = torch.stack([*(term.reshape(()) for term in terms.values()), self._gradient])
        images = batch.get("index") if isinstance(batch, Mapping) else None
        logits = getattr(pl_module, "own_logits", None)
        own = logits.isfinite().all() if logits is not None and world_size() > 1 else None
        self._steps.append(_Step(self._number, trainer.current_epoch, images, tuple(terms), values, own))
        self._number, self._gradient = trainer.global_step, self._zero
        if len(self._steps) >= self._window:
            self._read(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before a validation, whose numbers would choose a checkpoint."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._read(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for the logits of the validation, which may overflow where no training step does."""
        metrics = getattr(pl_module, "val_metrics", None)
        if trainer.state.fn == "fit" and metrics is not None and (broken := broken_scores(trainer, "val", metrics)):
            raise self._error(f"{_after(trainer)} {broken}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last steps, and print how many the scaler has skipped."""
        self._read(trainer)
        if self._scales and (count := int(self._overflows)):
            say(f"fp16: {count} of {trainer.global_step} steps overflowed and were skipped (gradient/overflows)")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write no checkpoint of a broken step, or of weights or statistics that are not finite."""
        if trainer.state.fn == "fit":
            self._read(trainer)
        weights = {name for name, _ in pl_module.named_parameters()}  # a loss's buffers may hold an infinity on purpose
        broken = [
            name
            for state in (checkpoint["state_dict"], checkpoint.get("current_model_state", {}))
            for name, tensor in state.items()
            if (name in weights or name.startswith("network.")) and tensor.is_floating_point()
            if not tensor.isfinite().all()
        ]
        first = next((name for names in gather_objects(broken[:1]) for name in names), None)
        if first is not None:
            raise self._error(f"{_after(trainer)} {first} is not finite, so no checkpoint is written")

    def _read(self, trainer: Trainer) -> None:
        """Read the values since the last reading; every rank calls this at the same time."""
        steps, self._steps = self._steps, []
        if not steps:
            return
        rows = torch.split(torch.cat([step.values for step in steps]).cpu(), [len(step.values) for step in steps])
        first = next((n for n, row in enumerate(rows) if self._broken(row.isfinite().tolist())), len(steps))
        first = int(gather(torch.tensor([first], device=self._zero.device), equal=True).min())
        if first == len(steps):
            return
        terms = dict(zip(steps[first].names, rows[first].tolist(), strict=False))
        broken = {name: value for name, value in terms.items() if not math.isfinite(value)}
        own, line = steps[first].own, _message(trainer, steps[first], broken, float(rows[first][-1]))
        guilt = bool(broken) + (own is not None and not own)
        # Losses and averaged gradients are broken on every rank: the cause is the one with broken logits, if there is.
        _, line = max(gather_objects((guilt, line)), key=lambda told: told[0])
        raise self._error(line)

    def _broken(self, finite: list[bool]) -> bool:
        *terms, gradient = finite
        self._in_a_row = 0 if gradient else self._in_a_row + 1
        skipped = self._scales and self._in_a_row < _HOPELESS
        return not (all(terms) and (gradient or skipped))

    def _error(self, line: str) -> SharedError:
        """With what to do; torch's anomaly detection finds the operation."""
        last, clip = self.folder / "checkpoints" / "last.ckpt", "--trainer.gradient_clip_val 1"
        again = f", or go on with --ckpt_path {os.path.relpath(last)} {clip}" if last.is_file() else ""
        return SharedError(
            f"{line}; start again with a lower --model.optimizer.lr, {clip} or --trainer.detect_anomaly true{again}"
        )


def broken_scores(trainer: Trainer, split: str, metrics: MultiLabelMetrics) -> str | None:
    """Describe which logits of an evaluation are not finite, None if all are; every rank calls this."""
    broken = [i for logits, index in zip(metrics.logits, metrics.index, strict=True)
              for i in index[~logits.isfinite().all(1)].tolist()]  # fmt: skip
    everywhere = sorted({index for part in gather_objects(broken) for index in part})
    if not everywhere:
        return None
    named = {"val": "validation"}.get(split, split)
    first = _file_names(trainer, split, everywhere[:1])[0]
    return f"the logits of {len(everywhere)} {named} images are not finite, the first is {first}"


def _message(trainer: Trainer, step: _Step, broken: dict[str, float], gradient: float) -> str:
    terms = [name for name in broken if name != "loss"] or list(broken)
    what = " and ".join(f"{name} is {broken[name]}" for name in terms) or f"the gradient is {gradient}"
    where = f" on rank {rank()}" if world_size() > 1 else ""
    images = [] if step.images is None else _file_names(trainer, "train", step.images.tolist())
    return f"step {step.number} (epoch {step.epoch}){where}: {what}; the images of its batch: {', '.join(images)}"


def _file_names(trainer: Trainer, split: str, images: Sequence[int]) -> list[str]:
    """Below the dataset's root; numbers where there is no datamodule that knows the files. Splices are counted."""
    data: Any = getattr(trainer, "datamodule", None)
    known = [image for image in images if image != NO_IMAGE]
    splices = [f"{count} splices of images of the step"] if (count := len(images) - len(known)) else []
    if not hasattr(data, "splits"):
        return [f"number {image}" for image in known] + splices
    return [os.path.relpath(data.splits[split].paths[image], data.root) for image in known] + splices


def _after(trainer: Trainer) -> str:
    return f"after {trainer.global_step} steps (epoch {trainer.current_epoch})"
