"""Fixed shapes and compilation of a training step, so that the host never waits in it for the device."""

import warnings
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule

from mlcl.data import ImageDataset, MultiLabelDataModule
from mlcl.data.features import FeatureDataset
from mlcl.data.sampler import EpochSampler
from mlcl.errors import MlclError
from mlcl.losses import EmbeddingLoss
from mlcl.network import Network

_OURS = ImageDataset, FeatureDataset  # not a user's, whose labels may be others
_AT_ONCE = 4096  # images whose labels are counted
_ROUNDED_TO = 64  # rows: so that most epochs have the same number, and nothing is compiled again


class FastStep(Callback):
    """Fixes the shapes of every step of an epoch, so that no step waits for the device, and compiles on demand."""

    def __init__(self, compiled: bool = False) -> None:
        self.compiled = compiled

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Compile for the training only: a test runs each batch once."""
        if self.compiled:
            compile_step(pl_module.network, pl_module.embedding_loss)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The largest step of an epoch is known before it begins."""
        pl_module.equal_batches = fix_shapes(pl_module.embedding_loss, trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """With ``augment_on: device`` a loader alone gives images that the datamodule would have finished."""
        if isinstance(batch, dict) and "drawn" in batch:
            raise MlclError(
                "the augmentation is not finished (data.augment_on device): give the trainer the datamodule, not its "
                "loader, and call super() where you override transfer_batch_to_device"
            )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Batches of other origin may be larger."""
        pl_module.equal_batches = False
        free_shapes(pl_module.embedding_loss)


def fix_shapes(loss: EmbeddingLoss | None, trainer: Any) -> bool:
    """Set the loss's capacity to the rows of the epoch's largest step; true if all ranks get equally many images.

    Every rank knows that number, since the order of the images is a function of (seed, epoch). Splices have more
    present labels than their images, so with ``data.splicemix`` rows are counted in each step.
    """
    loader = trainer.train_dataloader
    sampler = getattr(loader, "sampler", None)
    dataset: Any = getattr(loader, "dataset", None)
    if not isinstance(sampler, EpochSampler) or type(dataset) not in _OURS or _batches_change(trainer):
        free_shapes(loss)
        return False
    if trainer.datamodule.splicemix:
        free_shapes(loss)
    elif loss is not None and loss.compares_rows:
        targets = dataset.samples.targets
        blocks = range(0, len(targets), _AT_ONCE)
        present = np.concatenate([(targets[start : start + _AT_ONCE] == 1).sum(1) for start in blocks])
        rows = sampler.largest_batch(torch.from_numpy(present), loader.batch_size) * dataset.views
        loss.capacity = max(1, -(-rows // _ROUNDED_TO)) * _ROUNDED_TO
    return True


def _batches_change(trainer: Any) -> bool:
    """Whether a hook of the user's may put other labels, or other images, into a batch on its way to the step."""
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    owners = (trainer.datamodule, MultiLabelDataModule), (trainer.lightning_module, LightningModule)
    return any(getattr(type(owner), hook, None) is not getattr(ours, hook) for owner, ours in owners for hook in hooks)


def free_shapes(loss: EmbeddingLoss | None) -> None:
    """Undo :func:`fix_shapes`."""
    if loss is not None:
        loss.capacity = None


def precision_for(accelerator: Any) -> str:
    """Mixed bfloat16 where a CUDA device computes in it (Ampere and later), else float32, on every CPU too."""
    cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def compile_step(network: Network, loss: EmbeddingLoss | None) -> None:
    """Compile network and embedding loss in place, so that the names in a checkpoint stay the same."""
    # The compiler itself reads .grad (torch 2.15) of what enters the loss, which is no leaf.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor")
    network.compile()
    if loss is not None:
        setattr(loss, "compute", torch.compile(loss.compute))  # noqa: B010
