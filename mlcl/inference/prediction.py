"""``mlcl predict``: any number of images through a model, in order, on one device or several."""

import heapq
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from mlcl.callbacks import ImageProgressBar, Interruptible, prepared
from mlcl.data.unlabelled import FolderDataset, find_images
from mlcl.errors import MlclError
from mlcl.inference import Model, writers
from mlcl.inference.writers import Row
from mlcl.system.console import is_first, say


def predict(
    model: Model,
    images: Sequence[str],
    output: Path,
    *,
    writer: str | None = None,
    top: int | None = None,
    batch_size: int = 32,
    num_workers: int = 4,
    accelerator: str = "auto",
    devices: str = "1",
    precision: str = "32-true",
) -> int:
    """Write labels and scores of every image, in the order found; say which ones could not be read.

    Args:
        model: from :func:`mlcl.load`.
        images: folders, files and glob patterns.
        output: ``.csv``, ``.jsonl``, or a folder for ``writer="voc2012"``.
        writer: see ``mlcl predict --help``.
        top: write this number of highest scores instead of all.
        batch_size: per device.
        num_workers: loader processes per device.
        accelerator: as Lightning's Trainer takes it; so are ``devices`` and ``precision``.
        devices: how many.
        precision: of the network.

    Returns:
        0, or 1 if an image could not be read; the others are written all the same.

    Raises:
        MlclError: if there is no image, the output cannot be written, or a score is not a number.
    """
    devkit = writers.voc_test_images(Path(images[0])) if writer == "voc2012" and len(images) == 1 else None
    paths = devkit or find_images(images)
    bar: list[Callback] = [ImageProgressBar(batch_size)] if sys.stderr.isatty() else []
    trainer = make_trainer(accelerator, devices, precision, bar)
    if trainer.world_size > len(paths):  # a process without an image would break off the others
        trainer = make_trainer(accelerator, "1", precision, bar)
    rows = _Rows(model, paths, output, lambda: writers.make(output, model.classes, writer, top))
    trainer.callbacks.append(rows)  # type: ignore[attr-defined]
    loader = DataLoader(
        FolderDataset(paths, model.resize, model.image_size),
        batch_size,
        num_workers=min(num_workers, os.cpu_count() or 1),
        pin_memory=torch.cuda.is_available(),
    )
    started = time.perf_counter()
    try:
        trainer.predict(_Predictor(model), loader, return_predictions=False)
    except BaseException as error:
        rows.abandon()
        if isinstance(error, SystemExit):  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error
        raise
    return rows.summary(time.perf_counter() - started) if is_first() else 0


def make_trainer(
    accelerator: str, devices: str | int, precision: str, callbacks: list[Callback], folder: Path | None = None
) -> Trainer:
    """A trainer that only evaluates, without logger or checkpoints.

    Raises:
        MlclError: for what Lightning does not know or this machine does not have.
    """
    try:
        return prepared(
            Trainer(
                accelerator=accelerator,
                devices=devices,
                precision=precision,  # type: ignore[arg-type]
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=bool(callbacks),
                enable_model_summary=False,
                callbacks=[*callbacks, Interruptible()],
                default_root_dir=folder,
            )
        )
    except Exception as error:  # of several kinds
        raise MlclError(f"--accelerator, --devices or --precision: {' '.join(str(error).split())[:300]}") from error


class _Predictor(LightningModule):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.network(batch["image"]).logits  # type: ignore[no-any-return]


class _Rows(Callback):
    """Writes each batch as it comes; several processes write a part each, which the first one merges by index."""

    def __init__(
        self, model: Model, paths: Sequence[str], output: Path, make_writer: Callable[[], writers.Writer]
    ) -> None:
        self.model, self.paths, self.output, self.make_writer = model, paths, output, make_writer
        self.writer: writers.Writer | None = None
        self.part: IO[str] | None = None
        self.failures: list[tuple[str, str]] = []
        self.written = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.writer = self.make_writer()
        trainer.strategy.barrier()  # the first process has made the folder
        if trainer.world_size > 1:
            self.part = self._part(trainer.global_rank).open("w", encoding="utf-8")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        logits, indices = outputs.double().cpu().tolist(), batch["index"].tolist()
        for line in zip(indices, batch["error"], logits, strict=True):
            if self.part is not None:
                self.part.write(json.dumps(line) + "\n")
            else:
                self._add(*line)
        if self.part is not None:
            self.part.flush()  # what was done is there, whatever happens next

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.part is None:
            return
        self.part.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            parts = [self._part(rank) for rank in range(trainer.world_size)]
            for line in heapq.merge(*map(_lines, parts)):
                self._add(*line)
            for part in parts:
                part.unlink()

    def summary(self, seconds: float) -> int:
        """Finish the file, say what happened, return the exit status."""
        for path, reason in self.failures:
            say(f"not read: {path}: {reason}")
        assert self.writer is not None  # this is the first process
        where = self.writer.finish(len(self.failures))
        total = self.written + len(self.failures)
        say(f"{where}: {self.written:,} of {total:,} images, {total / seconds:.0f} images/s")
        if self.failures:
            say(f"{len(self.failures):,} images could not be read, see above")
        return 1 if self.failures else 0

    def abandon(self) -> None:
        """Say where what there is was left."""
        said = self.writer.abandon() if self.writer is not None else ""
        if self.part is not None:
            self.part.close()
            said = f"what was predicted so far is in {self._part(0)} and its like, a line for each image"
        if said:
            say(said)

    def _add(self, index: int, error: str, logits: list[float]) -> None:
        if error:
            self.failures.append((self.paths[index], error))
            return
        scores = self.model.probabilities(torch.tensor(logits, dtype=torch.float64))
        if scores.isnan().any():
            raise MlclError(f"{self.paths[index]}: the network's scores are not numbers; try --precision 32-true, or "
                            "give an earlier checkpoint")  # fmt: skip
        (labels,) = self.model.labels(scores[None])
        assert self.writer is not None
        self.writer.write(Row(self.paths[index], labels, scores.tolist()))
        self.written += 1

    def _part(self, rank: int) -> Path:
        return self.output.with_name(f"{self.output.name}.rank{rank}.partial")


def _lines(path: Path) -> Iterator[tuple[int, str, list[float]]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield tuple(json.loads(line))
