"""``mlcl predict``: any number of images through a model, in order, on one device or several."""

import math
import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import torch
from lightning import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch.utils.data import DataLoader, Subset

from mlcl.data.unlabelled import FolderDataset, find_images
from mlcl.errors import MlclError
from mlcl.inference import Model, forward, writers
from mlcl.inference.writers import Row, Writer
from mlcl.system import signals
from mlcl.system.console import say

Line = tuple[int, str, list[float]]  # position of the image, why it could not be read (or ""), its K logits


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
    """Write labels and scores of every image, in the order found; list the images that could not be read.

    The arguments are those of ``mlcl predict``, with the batch size and the number of loader processes per device.

    Returns:
        0, or 1 if an image could not be read; the others are written all the same.
    """
    devkit = writers.voc_test_images(Path(images[0])) if writer == "voc2012" and len(images) == 1 else None
    paths = devkit or find_images(images)
    fabric = forward.start(accelerator, devices, precision)
    started = time.perf_counter()
    rows: _Rows | None = None
    try:
        if fabric.is_global_zero:
            rows = _Rows(model, paths, writers.make(output, model.classes, writer, top))
        with closing(_batches(fabric, model, paths, batch_size, num_workers)) as batches:
            for _ in range(math.ceil(len(paths) / (batch_size * fabric.world_size))):
                lines = _gather(fabric, next(batches, []))
                if rows is not None:
                    rows.add(lines)
    except BaseException:
        if rows is not None:
            say(rows.writer.abandon())
        signals.collect_children()  # they would wait for this process
        raise
    return rows.finish(time.perf_counter() - started) if rows is not None else 0


def _batches(
    fabric: Fabric, model: Model, paths: Sequence[str], batch_size: int, num_workers: int
) -> Generator[list[Line]]:
    """This process's images, every n-th: a batch of all processes is one stretch of the images."""
    own = range(fabric.global_rank, len(paths), fabric.world_size)
    loader = DataLoader(
        Subset(FolderDataset(paths, model.resize, model.image_size, model.reading), own),
        batch_size,
        num_workers=min(num_workers, os.cpu_count() or 1),
        pin_memory=torch.cuda.is_available(),
    )
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = fabric.is_global_zero and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        bar = progress.add_task("predict", total=len(paths))
        for batch, logits in forward.logits(fabric, model.network, loader):
            yield [*zip(batch["index"].tolist(), batch["error"], logits.double().tolist(), strict=True)]
            progress.advance(bar, len(logits) * fabric.world_size)


def _gather(fabric: Fabric, lines: list[Line]) -> list[Line]:
    """The lines of all processes, in the order of the images, for the first process; nothing for the others."""
    if fabric.world_size == 1:
        return lines
    parts: list[list[Line]] | None = [[]] * fabric.world_size if fabric.is_global_zero else None
    torch.distributed.gather_object(lines, parts)
    return sorted(line for part in parts or () for line in part)


class _Rows:
    """Turns logits into rows of the output, and counts the images that could not be read."""

    def __init__(self, model: Model, paths: Sequence[str], writer: Writer) -> None:
        self.model, self.paths, self.writer = model, paths, writer
        self.failures: list[str] = []
        self.written = 0

    def add(self, lines: list[Line]) -> None:
        """Write images; scores that are not numbers are refused."""
        for index, error, logits in lines:
            path = self.paths[index]
            if error:
                self.failures.append(f"{path}: {error}")
                continue
            scores = self.model.probabilities(torch.tensor(logits, dtype=torch.float64))
            if scores.isnan().any():
                raise MlclError(f"{path}: the network's scores are not numbers; try --precision 32-true")
            (labels,) = self.model.labels(scores[None])
            self.writer.write(Row(path, labels, scores.tolist()))
            self.written += 1

    def finish(self, seconds: float) -> int:
        """Give the file its name, list what could not be read, return the exit status."""
        for failure in self.failures:
            say(f"not read: {failure}")
        where = self.writer.finish(len(self.failures))
        total = self.written + len(self.failures)
        say(f"{where}: {self.written:,} of {total:,} images, {total / seconds:.0f} images/s")
        return 1 if self.failures else 0
