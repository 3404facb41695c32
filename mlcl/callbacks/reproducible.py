"""The same numbers after a resume, and one model on all ranks."""

from typing import Any

import torch
from lightning import Callback

from mlcl.distributed import broadcast_buffers, rank
from mlcl.system.seeding import derive, global_seed


class Reproducible(Callback):
    """Seeds every epoch, and gives all ranks the BatchNorm statistics of the first before they validate."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Dropout and the like depend on (seed, epoch, rank) only: Lightning stores no generator's state."""
        torch.manual_seed(derive(global_seed(), trainer.current_epoch, rank()))

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Without this each rank would validate another model."""
        broadcast_buffers(pl_module.network)
