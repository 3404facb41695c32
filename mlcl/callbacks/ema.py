"""Exponential moving average of the weights, with the guards that Lightning 2.6.6 lacks."""

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mlcl.system.console import say

_LAGS = 0.01  # share of the first weights in the average above which that is said


class EMA(WeightAveraging):
    """Validates, saves and tests the moving average of weights and statistics, updated after every step.

    The average warms up: update t, from 0, keeps min(decay, (1 + t) / (10 + t)) of it and the first one copies, so that
    it looks back over about a tenth of the training where ``decay`` would look back further than the training is long.

    A checkpoint's ``state_dict`` is the average; the raw weights, for a resume, lie under ``current_model_state``.
    Beyond Lightning's callback, integer buffers are copied instead of averaged, nothing is swapped in before the first
    update, and the average is on the device of the training, so that an update does not wait.

    Args:
        decay: the largest share of the old average that a step keeps; 0.9997 forgets half in 2,300 steps.
        start_step: first optimizer step that enters the average.
    """

    def __init__(self, decay: float = 0.9997, start_step: int = 0) -> None:
        super().__init__()
        self.decay, self.start_step = decay, start_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every optimizer step from ``start_step`` on."""
        return step_idx is not None and step_idx >= self.start_step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the average."""
        if stage == "fit":
            self._average_model = _Average(pl_module, trainer.strategy.root_device, self.decay)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average in, once there is one."""
        if self._updates:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the raw weights back."""
        if self._updates:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the model, if there is one, and say if it still holds much of the first weights."""
        if self._updates:
            super().on_train_end(trainer, pl_module)
            share = share_of_first(self._updates, self.decay)
            if self._updates > 1 and share > _LAGS:
                say(
                    f"warning: the moving average has {self._updates} updates, so {share:.1%} of it are still the "
                    "weights after the first one; train longer, or without it: --ema_decay null"
                )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save what would be validated: before the first update the raw weights, under both names."""
        raw = checkpoint["state_dict"]
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None and not self._updates:
            checkpoint["state_dict"] = raw

    @property
    def _updates(self) -> int:
        return self._average_model.updates if isinstance(self._average_model, _Average) else 0


def decay_at(update: int, decay: float) -> float:
    """Share of the old average that an update keeps, the first being update 0; see :class:`EMA`."""
    return min(decay, (1 + update) / (10 + update)) if update else 0.0


def share_of_first(updates: int, decay: float) -> float:
    """Share of the weights that the first update copied in the average after so many updates."""
    return math.prod(decay_at(update, decay) for update in range(1, min(updates, 10)))


class _Average(AveragedModel):
    """Torch's container for an average; torch's own update reads a counter from the device in every step."""

    def __init__(self, model: nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(model, device, use_buffers=True)
        self.n_averaged = self.n_averaged.cpu()
        self.decay = decay

    @property
    def updates(self) -> int:
        """How many there were (by numpy: visibly no device is asked)."""
        return int(self.n_averaged.numpy())

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """One update, in place; the first one copies."""
        lerp = get_ema_multi_avg_fn(decay_at(self.updates, self.decay))  # type: ignore[no-untyped-call]
        groups: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        # What is frozen stays as the first update copied it.
        for average, current in zip(_tensors(self.module, self.updates), _tensors(model, self.updates), strict=True):
            groups.setdefault(average.dtype, []).append((average, current.to(average.dtype)))
        for dtype, pairs in groups.items():
            if dtype.is_floating_point and self.updates:
                lerp(*map(list, zip(*pairs, strict=True)), self.n_averaged)
            else:
                for average, current in pairs:
                    average.copy_(current)
        self.n_averaged += 1


def _tensors(module: nn.Module, later: int) -> list[Tensor]:
    """Parameters and buffers; those of a frozen backbone only at first."""
    network: Any = getattr(module, "network", None)
    left_out = network.backbone if later and getattr(network, "frozen", False) else None
    found: dict[int, Tensor] = {}  # a tensor that two modules share counts once
    parts = [module]
    while parts:
        part = parts.pop()
        if part is not left_out:
            found |= {id(t): t for t in (*part.parameters(recurse=False), *part.buffers(recurse=False))}
            parts += part.children()
    return [*found.values()]
