"""A training may end at any moment: checkpoints are whole or not there, signals end it at once, the log is complete."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger

from mlcl.errors import MlclError
from mlcl.system import signals
from mlcl.system.files import write_whole


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, waits for the disk, then renames.

    Lightning 2.6.6 may copy over the old file instead, which a kill cuts in two.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """See Lightning's; a signal takes effect once the file is written."""
        if "://" in str(path) or storage_options is not None:
            return super().save_checkpoint(checkpoint, path, storage_options)

        def write(partial: Path) -> None:
            with partial.open("wb") as file:  # torch's own writer does not name the cause of a failure
                torch.save(checkpoint, file)

        with signals.held():
            try:
                write_whole(Path(path), write)
            except MlclError as error:
                before = "the one before it is kept" if Path(path).is_file() else "there was none before it"
                raise MlclError(f"{error}; {before}; make room and continue with --ckpt_path last") from error


class Interruptible(Callback):
    """Lets signals end a trainer at once, and keeps its CSV log in step with its checkpoints."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After Lightning has registered its handler of SIGTERM."""
        signals.take_back()

    on_test_start = on_validation_start = on_predict_start = on_train_start

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Stop, should the exception have been ignored where the signal came."""
        signals.check()

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_train_batch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Before Lightning's clean-up, in which its observer could kill this process."""
        signals.collect_children()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write what was logged: a run that goes on from here does not log it again."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()


def prepared(trainer: Trainer) -> Trainer:
    """The trainer, with safe checkpoints unless the user chose another way, and its processes ending with this one."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = SafeCheckpointIO()
    if hasattr(strategy.launcher, "procs"):
        signals.ends_with_us(strategy.launcher)
    return trainer
