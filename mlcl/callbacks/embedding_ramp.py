"""The weight of the embedding loss over time: 0, then a linear ramp, then 1."""

from typing import Any

from lightning import Callback

from mlcl.errors import MlclError
from mlcl.system.console import say


class EmbeddingRamp(Callback):
    """Sets ``embedding_share`` of the module before every step; outside of a training it is 1.

    Args:
        start: epochs before the embedding loss enters; a fraction is possible.
        ramp: epochs over which its weight then grows linearly from 0; 0 is at once.
    """

    def __init__(self, start: float, ramp: float) -> None:
        if min(start, ramp) < 0:
            raise MlclError(f"model.embedding_start and embedding_ramp: {start}, {ramp} is below 0")
        self.start, self.ramp = start, ramp

    def share(self, epochs: float) -> float:
        """Share of the full weight after so many epochs."""
        late = epochs - self.start
        return 0.0 if late < 0 else min(1.0, late / self.ramp) if self.ramp else 1.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Warn where the training ends before the ramp."""
        full, epochs = self.start + self.ramp, pl_module.total_steps / pl_module.steps_per_epoch
        if pl_module.embedding_loss is not None and full >= epochs:
            say(f"warning: the embedding loss has its full weight after epoch {full:g}, training ends at {epochs:g}")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """By optimizer steps, so that the accumulation of gradients changes nothing."""
        pl_module.embedding_share = self.share(trainer.global_step / pl_module.steps_per_epoch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Back to the full weight."""
        pl_module.embedding_share = 1.0
