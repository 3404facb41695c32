"""The network over a loader's batches, on the device and in the precision that the command line names."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning import Fabric
from torch import Tensor

from mlcl.errors import MlclError
from mlcl.network import Network
from mlcl.system import signals


def start(accelerator: str, devices: str | int = 1, precision: str = "32-true") -> Fabric:
    """Choose the devices and start a process for each; the arguments are those of Lightning's ``Fabric``."""
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]
    except Exception as error:  # of several kinds
        raise MlclError(f"--accelerator, --devices or --precision: {' '.join(str(error).split())[:300]}") from error
    if hasattr(fabric.strategy.launcher, "procs"):
        signals.ends_with_us(fabric.strategy.launcher)
    fabric.launch()
    return fabric


def logits(
    fabric: Fabric, network: Network, batches: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Each batch with its logits (B, K) on the CPU, in the precision of the network.

    The network is in eval mode and is moved to the device; batches hold ``image`` (B, 3, S, S) uint8.
    """
    precision = fabric.strategy.precision
    network = fabric.to_device(precision.convert_module(network))  # type: ignore[assignment]
    for batch in batches:
        with torch.inference_mode(), precision.forward_context():
            out = network(batch["image"].to(fabric.device, non_blocking=True)).logits.cpu()
        signals.check()
        yield batch, out
