"""Ranks that were started from other code, settings, data or checkpoints do not train together."""

import hashlib
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from mlcl import __version__
from mlcl.callbacks import group
from mlcl.distributed import require_equal, world_size
from mlcl.runs import record

# What may differ between machines without another result: data are compared by their content, weights sent by DDP.
_FILES = ("data.root", "data.csv", "data.val_csv", "data.test_csv", "data.cache_dir")
_NOT_COMPARED = (
    *(*_FILES, "model.network.weights", "model.init_from", "data.num_workers", "data.cache"),
    *("trainer.default_root_dir", "trainer.logger", "trainer.strategy", "name", "log_images", "report"),
)


class OneRun(Callback):
    """Compares the ranks before anything is trained, and makes them known to each other.

    Args:
        checkpoint: that they start from; DDP sends the first rank's weights to all, but not its optimizer and epoch.
    """

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Once the process group runs and the splits are read.

        Raises:
            MlclError: on all ranks, where they differ.
        """
        if world_size() == 1:
            return
        facts: dict[str, Any] = {"verb": str(trainer.state.fn), "mlcl": __version__, "its code": _digest_of_code()}
        facts |= {"torch": torch.__version__, "lightning": lightning.__version__}
        facts["its checkpoint"] = _digest_of(self.checkpoint)
        settings = record.flat(getattr(pl_module, "config", None) or {})
        facts |= {
            place: value
            for place, value in settings.items()
            if not any(place == other or place.startswith(f"{other}.") for other in _NOT_COMPARED)
        }
        facts |= {f"{split} data": _data(trainer, samples) for split, samples in _splits(trainer).items()}
        require_equal(facts, "the processes of this run were not started alike")
        group.introduce(list(getattr(trainer.strategy.launcher, "procs", [])))


@cache  # files may change while we train; the code that runs does not
def _digest_of_code() -> str:
    """Of the package's files as they lie on the disk."""
    folder, digest = Path(__file__).parent.parent, hashlib.blake2b(digest_size=6)
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _digest_of(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "none"
    with checkpoint.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=6)).hexdigest()


def _splits(trainer: Trainer) -> dict[str, Any]:
    return dict(getattr(getattr(trainer, "datamodule", None), "splits", {}))


def _data(trainer: Trainer, samples: Any) -> str:
    """Names below the root and labels; no file is touched, which on a network's disk would take minutes."""
    root, digest = trainer.datamodule.root, hashlib.blake2b(digest_size=6)  # type: ignore[attr-defined]
    for path in samples.paths:
        path = path.relative_to(root) if path.is_relative_to(root) else path
        digest.update(f"{path}\0".encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(samples.targets).tobytes())
    return f"{len(samples.paths)} images {digest.hexdigest()}"
