"""Exponential moving average of the weights, with the guards that Lightning 2.6.6 lacks."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Validates, saves and tests the moving average of weights and statistics, updated after every step.

    A checkpoint's ``state_dict`` is the average; the raw weights, for a resume, lie under ``current_model_state``.
    Beyond Lightning's callback: integer buffers (counters) are copied instead of averaged and truncated, and nothing
    is swapped in before the first update, so that a delayed start does not validate untouched initial weights.

    Args:
        decay: share of the old average that each step keeps; 0.9997 forgets half in 2,300 steps.
        start_step: first optimizer step that enters the average.
    """

    def __init__(self, decay: float = 0.9997, start_step: int = 0) -> None:
        super().__init__(multi_avg_fn=lambda average, current, _: _average(average, current, decay))
        self.start_step = start_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every optimizer step from ``start_step`` on."""
        return step_idx is not None and step_idx >= self.start_step

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average in, once there is one."""
        if self._started():
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the raw weights back."""
        if self._started():
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the model, if there is one."""
        if self._started():
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save what would be validated: before the first update the raw weights, under both names."""
        raw = checkpoint["state_dict"]
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None and not self._started():
            checkpoint["state_dict"] = raw

    def _started(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)


def _average(average: list[Tensor], current: list[Tensor], decay: float) -> None:
    """One update, in place, of tensors that share a dtype."""
    if average[0].is_floating_point():
        torch._foreach_lerp_(average, [tensor.to(average[0].dtype) for tensor in current], 1 - decay)
    else:
        torch._foreach_copy_(average, current)
