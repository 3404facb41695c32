"""What is said where a metric that should choose an epoch is not a number, and why a training ended early."""

from datetime import timedelta
from typing import Any

from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping, Timer

from mlcl.data.labels import measurable
from mlcl.system.console import say

_KEPT = "until one has a number, best.ckpt (val/mAP) is the last epoch, a ModelCheckpoint of your own the first"


class Monitors(Callback):
    """Watches what checkpoints and early stopping monitor, the user's own included: Lightning says nothing."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Say what is known before the first step."""
        self._said = set[str]()
        if "val/mAP" in _monitored(trainer) and (reason := _why_unmeasurable(trainer)):
            self._said.add("val/mAP")
            say(f"warning: val/mAP will choose no epoch: {reason}; {_KEPT}")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Once for each metric; by now all that the epoch before has logged is there."""
        for name in _monitored(trainer) - self._said:
            if (value := trainer.callback_metrics.get(name)) is not None and value.isnan().any():
                self._said.add(name)
                say(f"warning: {name} is NaN and chooses no epoch; {_KEPT}")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Say why a training ended before its last epoch, or did not begin."""
        epochs = trainer.fit_loop.epoch_progress.current.processed
        if trainer.should_stop and not 0 < (trainer.max_epochs or 0) <= epochs:
            say(f"training ended after epoch {epochs} of {trainer.max_epochs}: {_reason(trainer)}")


def _reason(trainer: Any) -> str:
    for callback in trainer.callbacks:
        name = type(callback).__name__
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"{name}: {callback.stopping_reason_message.removesuffix(' Signaling Trainer to stop.')}"
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return f"{name}: its time is over, after {timedelta(seconds=round(callback.time_elapsed()))}"
    return "a callback asked for it"


def _monitored(trainer: Any) -> set[str]:
    return {callback.monitor for callback in trainer.callbacks if getattr(callback, "monitor", None)}


def _why_unmeasurable(trainer: Any) -> str | None:
    """Why this training will not measure ``val/mAP``, as far as that is known before it."""
    if not trainer.enable_validation or 0 < (trainer.max_epochs or 0) < (trainer.check_val_every_n_epoch or 1):
        return "nothing is validated (trainer.limit_val_batches, check_val_every_n_epoch)"
    data: Any = getattr(trainer, "datamodule", None)
    if "val" not in getattr(data, "splits", {}):
        return None
    images = sum(trainer.num_val_batches or [float("inf")]) * data.batch_size * trainer.world_size
    targets = data.splits["val"].targets
    targets = targets[: int(min(len(targets), images))]
    return None if measurable(targets).any() else (
        f"no class has both a positive and a negative among the {len(targets):,} images of the val split "
        "(label them; where the dataset has no such split, --data.val_fraction 0.1 holds labelled ones out)"
    )  # fmt: skip
