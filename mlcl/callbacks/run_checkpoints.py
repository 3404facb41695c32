"""The two checkpoints of every run: the best epoch's, as far as one can be chosen, and the last one's."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mlcl.system.console import say


class RunCheckpoint(ModelCheckpoint):
    """One of the two. Until a number has chosen (its metric is NaN, or nothing was validated), it is the last epoch.

    Lightning (2.6.6) keeps the first NaN, raises without the metric, and refuses two callbacks with the same key, which
    is made of metric and interval: so the state has a key of its own, and the user's may stand beside it.
    """

    @property
    def state_key(self) -> str:
        """By the name of the file."""
        return f"{type(self).__qualname__}:{self.filename}"

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Runs from before this class stored the state under Lightning's key; a run's folder may have been moved."""
        before = super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)
        states = checkpoint["callbacks"]
        if self.state_key not in states and before in states:
            states[self.state_key] = states.pop(before)
        state, own = states.get(self.state_key), self.format_checkpoint_name({})
        if state and trainer.strategy.broadcast(Path(own).is_file()):  # else Lightning (2.6.6) forgets the best score
            models = dict.fromkeys([own] * len(state["best_k_models"]), state["best_model_score"])
            own_paths = {"dirpath": self.dirpath, "best_model_path": own, "kth_best_model_path": own}
            states[self.state_key] = {**state, **own_paths, "best_k_models": models}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose, if there is a number."""
        if self._can_choose(trainer):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same; while nothing is chosen, keep this epoch."""
        if self._can_choose(trainer):
            super().on_train_epoch_end(trainer, pl_module)
        if self.undecided:
            self.best_model_path = self.format_checkpoint_name({})
            self._save_checkpoint(trainer, self.best_model_path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which epoch is called the best where none was chosen."""
        if self.undecided:
            say(f"{self.filename}.ckpt is the last epoch: {self.monitor} was NaN or never measured, so it chose none")

    def _can_choose(self, trainer: Trainer) -> bool:
        if self.monitor is None:
            return True
        value = trainer.callback_metrics.get(self.monitor)
        return trainer.strategy.reduce_boolean_decision(value is not None and not bool(value.isnan()))

    @property
    def undecided(self) -> bool:
        """Whether no number has chosen yet; runs from before this class have -inf for NaN."""
        return self.monitor is not None and not (self.best_model_score is not None and self.best_model_score.isfinite())


def best_and_last(folder: Path) -> list[ModelCheckpoint]:
    """Two callbacks: with one, ``save_last`` writes only when the best one was written (lightning 2.6.6)."""
    best = RunCheckpoint(folder, "best", monitor="val/mAP", mode="max", save_top_k=1, enable_version_counter=False)
    last = RunCheckpoint(
        folder, "last", monitor=None, save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
    )
    return [best, last]
