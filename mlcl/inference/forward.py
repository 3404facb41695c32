"""The network over a loader's batches, on the device and in the precision that the command line names."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mlcl.distributed import meeting
from mlcl.errors import MlclError
from mlcl.inference.parts import Share, launched
from mlcl.network import Network
from mlcl.system import console, signals

_KINDS = {"auto": ("mps", "cuda", "cpu"), "gpu": ("mps", "cuda"), "cuda": ("cuda",), "mps": ("mps",), "cpu": ("cpu",)}
_PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Process:
    """One of the processes that share the work: its device, how it computes, and its share."""

    device: torch.device
    place: Callable[[Network], Any]  # moves a network to the device, in the precision
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext  # around its calls
    share: Share = field(default_factory=Share)
    parent: int = field(default_factory=os.getppid)


def start(accelerator: str, devices: str | int = 1, precision: str = "32-true", together: bool = False) -> Process:
    """Choose the devices and start a process for each; the arguments are those of Lightning's ``Fabric``.

    Args:
        accelerator: auto, cpu, gpu, ...
        devices: how many, or which.
        precision: of the network.
        together: take the processes that torchrun or SLURM has started, if it has.

    Raises:
        MlclError: for what is not there, or not possible.
    """
    if not (together and (there := launched())):
        return _alone(accelerator, devices, precision) or _several(accelerator, devices, precision)
    here, nodes, slurm = there
    if str(devices) not in ("1", "auto", str(here)):
        raise MlclError(f"--devices {devices}: {here} processes were started here, which are used; leave it out")
    return _several(accelerator, here, precision, nodes, slurm)


def _alone(accelerator: str, devices: str | int, precision: str) -> Process | None:
    """This process, on one device in an ordinary precision: Lightning takes a second to import. Else None."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = next((kind for kind in _KINDS.get(accelerator, ()) if there[kind]), None)
    half_on_cpu = (kind, precision) == ("cpu", "16-mixed")
    if kind is None or str(devices) != "1" or precision not in _PRECISIONS or half_on_cpu:
        return None
    device, dtype = torch.device(kind, 0) if kind == "cuda" else torch.device(kind), _PRECISIONS[precision]
    computing = nullcontext if dtype is None else lambda: torch.autocast(kind, dtype=dtype)
    return Process(device, lambda network: network.to(device), computing)


def _several(accelerator: str, devices: str | int, precision: str, nodes: int = 1, slurm: bool = False) -> Process:
    """Whatever Lightning knows of, and its messages for what it does not."""
    from lightning import Fabric
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    console.quieten()
    chosen: Any = {"accelerator": accelerator, "devices": devices, "precision": precision, "num_nodes": nodes}
    try:
        if slurm:  # which Lightning does not see in an interactive job
            chosen["plugins"] = SLURMEnvironment(auto_requeue=False)
        fabric = Fabric(**chosen)
    except Exception as error:  # of several kinds
        raise MlclError(f"--accelerator, --devices or --precision: {' '.join(str(error).split())[:300]}") from error
    if hasattr(fabric.strategy.launcher, "procs"):
        signals.ends_with_us(fabric.strategy.launcher)
    fabric.launch()
    kind = fabric.strategy.precision
    return Process(
        fabric.device,
        lambda network: fabric.to_device(kind.convert_module(network)),
        kind.forward_context,
        Share(fabric.global_rank, fabric.world_size, meeting()) if fabric.world_size > 1 else Share(),
    )


def logits(
    process: Process, network: Network, batches: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Each batch with its logits (B, K) on the CPU, in the precision of the network.

    The network is in eval mode and is moved to the device; batches hold ``image`` (B, 3, S, S) uint8.
    """
    network = process.place(network)
    for batch in batches:
        with torch.inference_mode(), process.computing():
            out = network(batch["image"].to(process.device, non_blocking=True)).logits.cpu()
        signals.check()
        if process.share.rank and os.getppid() != process.parent:
            raise MlclError("the process that started this one has ended")
        yield batch, out
