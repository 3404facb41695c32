"""The ranks of a run start from the same code, settings, data and checkpoint; one that fails is named."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from torch.distributed import DistError

from mlcl import __version__
from mlcl.callbacks.data_note import fingerprints
from mlcl.distributed import SharedError, rank, require_equal, world_size
from mlcl.errors import line
from mlcl.runs import record

# Settings that may differ between machines: data are compared by their content, weights are sent by DDP.
_NOT_COMPARED = (
    *("data.root.", "data.csv.", "data.val_csv.", "data.test_csv.", "data.cache_dir.", "data.cache."),
    *("data.num_workers.", "model.network.weights.", "model.init_from.", "name.", "log_images.", "report."),
    *("trainer.default_root_dir.", "trainer.logger.", "trainer.strategy."),
)


class OneRun(Callback):
    """Refuses to start where the ranks differ; from a checkpoint DDP sends rank 0's weights, but not its optimizer."""

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare, once the process group runs and the splits are read."""
        if world_size() == 1:
            return
        facts: dict[str, Any] = {"verb": str(trainer.state.fn), "mlcl": __version__, "its code": _digest_of_code()}
        facts |= {"torch": torch.__version__, "lightning": lightning.__version__}
        facts["its checkpoint"] = _digest_of(self.checkpoint) if self.checkpoint else "none"
        settings = record.flat(getattr(pl_module, "config", None) or {})
        facts |= {key: value for key, value in settings.items() if not f"{key}.".startswith(_NOT_COMPARED)}
        splits = fingerprints(getattr(trainer, "datamodule", None))
        facts |= {f"{split} data": value for split, value in splits.items()}
        require_equal(facts, "the processes of this run were not started alike")


@contextmanager
def naming_ranks() -> Iterator[None]:
    """Around a command: print which rank fails; the command line prints the errors of the first one only."""
    try:
        yield
    except Exception as error:
        if world_size() == 1 or isinstance(error, SharedError):
            raise
        last = (str(error) or type(error).__name__).strip().splitlines()[-1]  # after a worker's whole traceback
        if isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise SharedError(f"another process of this run has failed or hangs ({last[:200]})") from error
        if os.environ.get("LOCAL_RANK", "0") != "0":
            print(f"mlcl: rank {rank()}: {line(last)}", file=sys.stderr, flush=True)
        raise


@cache  # the files may change while a run goes on; the code that it runs does not
def _digest_of_code() -> str:
    """Of the package's files as they are on the disk."""
    folder, digest = Path(__file__).parent.parent, hashlib.blake2b(digest_size=6)
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, partial(hashlib.blake2b, digest_size=6)).hexdigest()
