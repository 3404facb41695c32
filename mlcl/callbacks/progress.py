"""Progress of a training: a bar, and one line per epoch."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from mlcl.system.console import say

_EVERY = 0.5  # seconds between two readings of the loss


class ImageProgressBar(RichProgressBar):
    """Lightning's rich progress bar with the loss, read twice a second.

    Lightning (2.6.6) reads what is logged with ``prog_bar=True`` in every step, and the host waits for the device each
    time: so nothing is logged that way.
    """

    _shown: dict[str, Any]
    _read = -_EVERY

    def _get_train_description(self, current_epoch: int) -> str:
        """Counted from 1, as in the lines above the bar."""
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The values beside the bar."""
        if time.monotonic() - self._read >= _EVERY:
            loss = trainer.callback_metrics.get("train/loss")
            self._shown = super().get_metrics(trainer, pl_module) | ({} if loss is None else {"loss": float(loss)})
            self._read = time.monotonic()
        return self._shown

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the epoch's last loss."""
        self._read = -_EVERY
        super().on_train_epoch_end(trainer, pl_module)


class EpochLines(Callback):
    """One line per epoch: loss, validation metrics, speed of training."""

    def __init__(self) -> None:
        self._started = self._trained = self._loss = 0.0
        self._images = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started, self._images, self._loss = time.perf_counter(), 0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images, and sum the loss on its device."""
        self._images += len(batch["target"])
        self._loss = self._loss + outputs["loss"].detach() * len(batch["target"]) * trainer.accumulate_grad_batches
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line after the validation, which Lightning runs inside the training epoch."""
        values = trainer.callback_metrics
        scores = "  ".join(f"{n} {100 * values[f'val/{n}']:.2f}" for n in ("mAP", "CF1", "OF1") if f"val/{n}" in values)
        speed = self._images * trainer.world_size / max(self._trained - self._started, 1e-9)
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        loss = float(self._loss) / max(self._images, 1)
        say(
            f"epoch {trainer.current_epoch + 1:>3}{of}  loss {loss:.4f}"
            f"{'  val ' + scores if scores else ''}  {speed:.0f} images/s  "
            f"{time.perf_counter() - self._started:.1f} s"
        )
