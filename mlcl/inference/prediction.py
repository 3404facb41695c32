"""``mlcl predict``: any number of images through a model, in order, on one device or on several nodes."""

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
from mlcl.inference import forward, parts, rows, writers
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

    The arguments are those of ``mlcl predict``, with the batch size and the number of loader processes per device. What
    an earlier call has left in parts beside the output is not done again, see :mod:`mlcl.inference.parts`.

    Returns:
        0, or 1 if an image could not be read; the others are written all the same.
    """
    paths = rows.find(images, writer)
    known = ("energy",) if model.familiar_from is None else ("energy", "familiar")
    maker = writers.make(output, model.classes, writer, top, known if energy else (), paths)
    options = {
        "rows": (output.suffix, writer, top, energy, model.familiar_from),
        "model": (model.classes, model.thresholds.tolist(), model.temperature, model.network.tta, precision),
        "pictures": (model.image_size, model.interpolation, sorted(model.reading.items()), batch_size),
    }
    job = parts.job(model.source, paths, options)
    remedy = "; try --precision 32-true"
    thresholds = model.thresholds.tolist()
    process = forward.start(accelerator, devices, precision, together=True)
    written: Rows | None = None
    try:
        written = Rows(paths, model.classes, thresholds, maker, job, batch_size, process.share, remedy)
        with closing(_batches(process, model, paths, written.left, batch_size, num_workers, energy)) as batches:
            for lines in batches:
                written.add(lines)
        return written.finish()
    except BaseException as error:
        if written is not None:
            written.abandon(error)
        signals.collect_children()  # they would wait for this process
        raise


def _batches(
    process: Process,
    model: Model,
    paths: Sequence[str],
    left: range,
    batch_size: int,
    num_workers: int,
    energy: bool,
) -> Generator[list[Line]]:
    """The images at these positions."""
    batches = math.ceil(len(left) / batch_size)  # each is read by one loader process
    loader = DataLoader(
        Subset(FolderDataset(paths, model.image_size, model.interpolation, model.reading), left),
        batch_size,
        num_workers=min(num_workers, os.cpu_count() or 1, batches) if batches > 1 else 0,
        pin_memory=torch.cuda.is_available(),
    )
    with rows.progress(len(left), process.share.rank == 0) as advance:
        for batch, logits in forward.logits(process, model.network, loader):
            scores = model.probabilities(logits.double()).tolist()
            extra = _energies(model, logits) if energy else [{}] * len(logits)
            yield [*zip(batch["index"].tolist(), batch["error"], scores, extra, strict=True)]
            advance(len(logits))


def _energies(model: Model, logits: Tensor) -> list[Extra]:
    """Each image's energy, and whether it is familiar if the model can tell."""
    values: list[float] = joint_energy(logits).tolist()
    if model.familiar_from is None:
        return [{"energy": value} for value in values]
    return [{"energy": value, "familiar": value >= model.familiar_from} for value in values]
