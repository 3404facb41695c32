"""What is said where a metric that should choose a checkpoint, or end the training, is not a number."""

from typing import Any

from lightning import Callback, Trainer

from mlcl.data.labels import measurable
from mlcl.system.console import say

_CHOOSES = "val/mAP"


class Monitors(Callback):
    """Watches what the trainer's checkpoints and early stopping monitor, the user's own included.

    Says before the training that ``val/mAP`` will not be measured, of any metric once that it is NaN, and at the end
    why early stopping has ended the training: Lightning (2.6.6) does so in silence.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """What is known before the first step."""
        self._first, self._said = trainer.current_epoch, set[str]()
        if _CHOOSES in _monitored(trainer) and (reason := _why_unmeasurable(trainer)):
            self._said.add(_CHOOSES)
            say(f"warning: {_CHOOSES} will choose no epoch: {reason}{_kept(trainer, _CHOOSES)}")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """What the epoch before has logged, all of which is there by now."""
        for name in _monitored(trainer) - self._said:
            if (value := trainer.callback_metrics.get(name)) is not None and value.isnan().any():
                self._said.add(name)
                say(f"warning: {name} is NaN and chooses no epoch{_kept(trainer, name)}")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last epoch, and why it is the last."""
        self.on_train_epoch_start(trainer, pl_module)
        for stopper in trainer.early_stopping_callbacks if trainer.should_stop else []:
            reason = stopper.stopping_reason_message
            if reason and stopper.stopped_epoch >= self._first:  # not before a resume
                why = reason.removesuffix(" Signaling Trainer to stop.")
                say(f"early stopping after epoch {stopper.stopped_epoch + 1}: {why}")


def _monitored(trainer: Any) -> set[str]:
    watchers = [*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks]
    return {watcher.monitor for watcher in watchers if getattr(watcher, "monitor", None)}


def _kept(trainer: Trainer, name: str) -> str:
    """What the checkpoints that this metric should choose are without a number."""
    kept = set()
    for callback in trainer.checkpoint_callbacks:
        if getattr(callback, "monitor", None) == name:
            undecided = getattr(callback, "undecided", None)
            kept.add(
                "Lightning's ModelCheckpoint keeps the first such epoch until there is a number" if undecided is None
                else "best.ckpt is the last epoch until there is a number" if undecided else "best.ckpt stays"
            )  # fmt: skip
    return "".join(f"; {text}" for text in sorted(kept, key=str.lower))


def _why_unmeasurable(trainer: Any) -> str | None:
    """Why this training will not measure ``val/mAP``, as far as that is known before it."""
    if not trainer.enable_validation or 0 < (trainer.max_epochs or 0) < (trainer.check_val_every_n_epoch or 1):
        return "nothing is validated (trainer.limit_val_batches, trainer.check_val_every_n_epoch)"
    data: Any = getattr(trainer, "datamodule", None)
    if "val" not in getattr(data, "splits", {}):
        return None
    targets, batches = data.splits["val"].targets, sum(trainer.num_val_batches or [float("inf")])
    targets = targets[: int(min(len(targets), batches * data.batch_size * trainer.world_size))]
    if measurable(targets).any():
        return None
    return (
        f"in none of the classes do the {len(targets):,} images of the val split have both a positive and a negative "
        "(label them; or, where the dataset has no val split of its own, hold some out with --data.val_fraction 0.1)"
    )
