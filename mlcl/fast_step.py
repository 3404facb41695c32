"""What a training step is told beforehand: then the host never waits in it for the device, and shapes stay the same."""

import warnings
from typing import Any

import torch

from mlcl.data.sampler import EpochSampler
from mlcl.losses import EmbeddingLoss
from mlcl.network import Network

_ROUNDED_TO = 64  # rows: so that most epochs have the same number, and nothing is compiled again


def fix_shapes(loss: EmbeddingLoss | None, trainer: Any) -> bool:
    """Tell the loss how many rows the largest step of this epoch has present.

    The order of the images is a function of (seed, epoch) and their targets lie in memory, so every rank knows that
    number for all ranks together. A batch of another origin could hold more: then the loss asks in every step.

    Returns:
        Whether every step brings all ranks the same number of images.
    """
    loader = trainer.train_dataloader
    sampler, batch_size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if not isinstance(sampler, EpochSampler) or batch_size is None:
        free_shapes(loss)
        return False
    samples = getattr(loader.dataset, "samples", None)
    if loss is not None and loss.compares_rows and samples is not None:
        present = (torch.as_tensor(samples.targets) == 1).sum(1)
        rows = sampler.largest_batch(present, batch_size) * int(getattr(loader.dataset, "views", 1))
        loss.capacity = max(1, -(-rows // _ROUNDED_TO)) * _ROUNDED_TO
    return True


def free_shapes(loss: EmbeddingLoss | None) -> bool:
    """Undo :func:`fix_shapes`; returns what it then would."""
    if loss is not None:
        loss.capacity = None
    return False


def precision_for(accelerator: Any) -> str:
    """Mixed bfloat16 where a CUDA device computes in it (Ampere and later), else float32.

    A CPU gets float32 even if it has AMX, which halves a ResNet-101's step: there runs are repeated and compared on
    other processors, and ``--trainer.precision bf16-mixed`` asks for it.

    Args:
        accelerator: as the trainer takes it.
    """
    cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def compile_step(network: Network, loss: EmbeddingLoss | None) -> None:
    """Compile network and embedding loss where they are, which leaves the names in a checkpoint as they were.

    The classification loss and the optimizer stay as they are: a few kernels, and one that is fused anyway.
    """
    # Of the compiler's own looking (torch 2.15): what enters the loss is no leaf.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor")
    network.compile()
    if loss is not None:
        setattr(loss, "compute", torch.compile(loss.compute))  # noqa: B010
