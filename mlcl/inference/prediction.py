"""``mlcl predict``: any number of images through a model, in order, on one device or several."""

import math
import os
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from mlcl.analysis.energy import joint_energy
from mlcl.data.unlabelled import FolderDataset
from mlcl.inference import forward, rows
from mlcl.inference.forward import Process
from mlcl.inference.model import Model
from mlcl.inference.rows import Extra, Line, Rows
from mlcl.system import signals


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
    energy: bool = False,
) -> int:
    """Write labels and scores of every image, in the order found; list the images that could not be read.

    The arguments are those of ``mlcl predict``, with the batch size and the number of loader processes per device.

    Returns:
        0, or 1 if an image could not be read; the others are written all the same.
    """
    paths = rows.find(images, writer)
    process = forward.start(accelerator, devices, precision)
    written: Rows | None = None
    try:
        if process.rank == 0:
            remedy = "; try --precision 32-true"
            known = ("energy",) if model.familiar_from is None else ("energy", "familiar")
            extra = known if energy else ()
            written = Rows(paths, model.classes, model.thresholds.tolist(), output, writer, top, extra, remedy)
        with closing(_batches(process, model, paths, batch_size, num_workers, energy)) as batches:
            for _ in range(math.ceil(len(paths) / (batch_size * process.count))):
                lines = _gather(process, next(batches, []))
                if written is not None:
                    written.add(lines)
    except BaseException:
        if written is not None:
            written.abandon()
        signals.collect_children()  # they would wait for this process
        raise
    return written.finish() if written is not None else 0


def _batches(
    process: Process, model: Model, paths: Sequence[str], batch_size: int, num_workers: int, energy: bool
) -> Generator[list[Line]]:
    """This process's images, every n-th: a batch of all processes is one stretch of the images."""
    own = range(process.rank, len(paths), process.count)
    batches = math.ceil(len(own) / batch_size)  # each is read by one loader process
    loader = DataLoader(
        Subset(FolderDataset(paths, model.image_size, model.interpolation, model.reading), own),
        batch_size,
        num_workers=min(num_workers, os.cpu_count() or 1, batches) if batches > 1 else 0,
        pin_memory=torch.cuda.is_available(),
    )
    with rows.progress(len(paths), process.rank == 0) as advance:
        for batch, logits in forward.logits(process, model.network, loader):
            scores = model.probabilities(logits.double()).tolist()
            extra = _energies(model, logits) if energy else [{}] * len(logits)
            yield [*zip(batch["index"].tolist(), batch["error"], scores, extra, strict=True)]
            advance(len(logits) * process.count)


def _energies(model: Model, logits: Tensor) -> list[Extra]:
    """Each image's energy, and whether it is familiar if the model can tell."""
    values: list[float] = joint_energy(logits).tolist()
    if model.familiar_from is None:
        return [{"energy": value} for value in values]
    return [{"energy": value, "familiar": value >= model.familiar_from} for value in values]


def _gather(process: Process, lines: list[Line]) -> list[Line]:
    """The lines of all processes, in the order of the images, for the first process; nothing for the others."""
    if process.count == 1:
        return lines
    parts: list[list[Line]] | None = [[]] * process.count if process.rank == 0 else None
    torch.distributed.gather_object(lines, parts)
    return sorted(line for part in parts or () for line in part)
