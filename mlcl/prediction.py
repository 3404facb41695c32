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

from mlcl import writers
from mlcl.callbacks import ImageProgressBar
from mlcl.console import is_first, say
from mlcl.data.folder import FolderDataset, find_images
from mlcl.errors import MlclError
from mlcl.inference import Model
from mlcl.writers import Row


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
        MlclError: if there is no image, or the output cannot be written.
    """
    devkit = writers.voc_test_images(Path(images[0])) if writer == "voc2012" and len(images) == 1 else None
    paths = devkit or find_images(images)
    trainer = _trainer(accelerator, devices, precision, batch_size)
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
    except BaseException:
        if rows.writer is not None:
            say(rows.writer.abandon())
        raise
    return rows.summary(time.perf_counter() - started) if is_first() else 0


def _trainer(accelerator: str, devices: str, precision: str, batch_size: int) -> Trainer:
    bar = sys.stderr.isatty()
    try:
        return Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=bar,
            callbacks=[ImageProgressBar(batch_size)] if bar else [],
        )
    except Exception as error:  # Lightning raises several kinds for what it does not have or know
        raise MlclError(f"--accelerator, --devices or --precision: {' '.join(str(error).split())[:300]}") from error


class _Predictor(LightningModule):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.probabilities = model.network, model.probabilities

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.probabilities(self.network(batch["image"]).logits)


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
        scores, indices = outputs.float().cpu(), batch["index"].tolist()
        for index, error, row in zip(indices, batch["error"], scores, strict=True):
            if self.part is not None:
                self.part.write(json.dumps([index, error, row.tolist()]) + "\n")
            else:
                self._add(index, error, row)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.part is None:
            return
        self.part.close()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            parts = [self._part(rank) for rank in range(trainer.world_size)]
            for index, error, row in heapq.merge(*map(_lines, parts)):
                self._add(index, error, torch.tensor(row, dtype=torch.float32))
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

    def _add(self, index: int, error: str, scores: Tensor) -> None:
        if error:
            self.failures.append((self.paths[index], error))
            return
        (labels,) = self.model.labels(scores[None])
        assert self.writer is not None
        self.writer.write(Row(self.paths[index], labels, scores.tolist()))
        self.written += 1

    def _part(self, rank: int) -> Path:
        return self.output.with_name(f".{self.output.name}.rank{rank}")


def _lines(path: Path) -> Iterator[tuple[int, str, list[float]]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield tuple(json.loads(line))
