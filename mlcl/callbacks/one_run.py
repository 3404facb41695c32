"""Ranks that were started from other code, another configuration or other data do not train together."""

import functools
import hashlib
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from mlcl import __version__, group
from mlcl.distributed import require_equal, world_size

# What may differ between machines without another result.
_FILES = ("data.root", "data.csv", "data.val_csv", "data.test_csv", "data.cache_dir", "model.network.weights")
_NOT_COMPARED = (
    *(*_FILES, "data.num_workers", "data.cache", "trainer.default_root_dir"),
    *("trainer.logger", "trainer.strategy", "name", "log_images", "report"),
)


class OneRun(Callback):
    """Compares the ranks before anything is trained, and makes them known to each other."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Once the process group runs and the splits are read.

        Raises:
            MlclError: on all ranks, where they differ.
        """
        if world_size() == 1:
            return
        facts: dict[str, Any] = {"verb": str(trainer.state.fn), "mlcl": __version__, "its code": _code()}
        facts |= {"torch": torch.__version__, "lightning": lightning.__version__}
        facts |= _compared(getattr(pl_module, "config", None) or {})
        facts |= {f"{split} data": _data(trainer, samples) for split, samples in _splits(trainer).items()}
        require_equal(facts, "the processes of this run were not started alike")
        group.introduce(list(getattr(trainer.strategy.launcher, "procs", [])))


@functools.cache  # files may change while we train; the code that runs does not
def _code() -> str:
    """Of the package as it lies on the disk."""
    folder, digest = Path(__file__).parent.parent, hashlib.blake2b(digest_size=6)
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _compared(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings as flat flags; without init_args, the class path under the name of its place."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        place = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}".lstrip(".")
        if not any(place == other or place.startswith(f"{other}.") for other in _NOT_COMPARED):
            flat |= _compared(value, place) if isinstance(value, dict) else {place: value}
    return flat


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
