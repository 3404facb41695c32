"""A training may end at any moment: checkpoints are whole or not there, signals count at once, logs keep up."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from mlcl.errors import MlclError
from mlcl.system import signals


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, waits for the disk, then renames.

    (Lightning 2.6.6 writes to the temporary folder and moves: between two file systems that is a copy over the old
    file, which a kill cuts in two. It also holds the whole file in memory.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """See Lightning's; a signal that comes meanwhile counts afterwards.

        Raises:
            MlclError: if the disk takes no more; what lay under this name is untouched.
        """
        if "://" in str(path) or storage_options is not None:
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        # One name for all attempts: what a killed process left is written over by the next one.
        partial = path.with_name(f".{path.name}.partial")
        with signals.held(), _one_line(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
                _sync_folder(path.parent)
            finally:
                partial.unlink(missing_ok=True)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error  # torch's writer reports a failed write of ours as an error of its own
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        before = "the one before it is kept" if path.is_file() else "there was none before it"
        raise MlclError(
            f"{os.path.relpath(path)} could not be written: {cause.strerror or cause}; {before}; make room and "
            "continue with --ckpt_path last"
        ) from error


def _sync_folder(folder: Path) -> None:
    """The new name, too, is to survive a power cut; not every file system knows how."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Interruptible(Callback):
    """What a trainer needs to be stopped at any time: signals that end it at once, a log that is as far as its file."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After Lightning has registered its handlers."""
        _signals_of(trainer)

    on_test_start = on_validation_start = on_predict_start = on_train_start

    def on_train_batch_end(self, *_: Any) -> None:
        """Should the signal have been swallowed."""
        signals.check()

    def on_validation_batch_end(self, *_: Any) -> None:
        """The same."""
        signals.check()

    def on_test_batch_end(self, *_: Any) -> None:
        """The same."""
        signals.check()

    def on_predict_batch_end(self, *_: Any) -> None:
        """The same."""
        signals.check()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """What was logged up to here is not logged again by a run that goes on from here."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()


def _signals_of(trainer: Trainer) -> None:
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        signals.leave_to_lightning()
    else:
        signals.take_back()


def prepared(trainer: Trainer) -> Trainer:
    """The trainer, its checkpoints written safely unless the user chose a way of his own; its processes end with us."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = SafeCheckpointIO()
    if hasattr(strategy.launcher, "procs"):
        signals.ends_with_us(strategy.launcher)
    return trainer


def best_and_last(folder: Path) -> list[ModelCheckpoint]:
    """Two callbacks: with one, ``save_last`` writes only when the best one was written (lightning 2.6.6)."""
    best = ModelCheckpoint(folder, "best", monitor="val/mAP", mode="max", save_top_k=1, enable_version_counter=False)
    last = ModelCheckpoint(
        folder, "last", monitor=None, save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
    )
    return [best, last]
