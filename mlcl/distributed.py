"""The only file with collectives. Each function is the identity where no process group runs."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mlcl.errors import MlclError


class SharedError(MlclError):
    """Raised by every rank with the same message, so that one of them prints it."""


def world_size() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def global_batch(embeddings: Tensor, targets: Tensor, equal: bool = False) -> tuple[Tensor, Tensor]:
    """Embeddings and targets of all ranks in rank order; only this rank's slice carries a gradient.

    In the backward pass that gradient is multiplied by the world size W, the loss is not. After DDP's averaging the
    network, which each rank reaches through one slice, and the parameters inside the loss, whose gradient is whole on
    every rank, then get exactly the gradient of one process.

    Args:
        embeddings: (B, ...) float; B may differ between ranks, the rest may not.
        targets: (B, K) integer.
        equal: B is known to be the same on all ranks; exchanging it would make the host wait for the device.

    Returns:
        ``(sum of B, ...)`` embeddings and ``(sum of B, K)`` targets; the arguments themselves on one process.
    """
    size = world_size()
    if size == 1:
        return embeddings, targets
    sizes = _sizes(targets, equal)
    slices = _gather(embeddings.detach(), sizes)
    slices[rank()] = own = embeddings.view_as(embeddings)
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * size)  # type: ignore[no-untyped-call]
    return torch.cat(slices), torch.cat(_gather(targets, sizes))


def gather(tensor: Tensor, equal: bool = False) -> Tensor:
    """The tensors (B, ...) of all ranks in rank order, without gradient; B may differ unless ``equal``."""
    tensor = tensor.detach()
    return torch.cat(_gather(tensor, _sizes(tensor, equal))) if world_size() > 1 else tensor


def add_up(tensor: Tensor) -> Tensor:
    """The sum over the ranks of a tensor of the same shape on each, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks in rank order; small plain values, pickled on the way."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def meeting() -> Callable[[Any], list[Any]]:
    """As :func:`gather_objects`, where one rank may come hours after another: a function that all of them call.

    It works on the CPU whatever the devices are, minds signals while it waits, and raises a SharedError if a rank has
    ended.
    """
    if world_size() == 1:
        return lambda value: [value]
    group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=365))

    def gather(value: Any) -> list[Any]:
        values = [value] * world_size()
        try:
            arrived: Any = dist.barrier(group, async_op=True)
            while not arrived.is_completed():  # to wait inside of it would keep signals from Python
                time.sleep(0.02)
            arrived.wait()
            dist.all_gather_object(values, value, group)
        except RuntimeError as error:
            raise SharedError("another process has ended before its work was done") from error
        return values

    return gather


def require_equal(facts: dict[str, Any], start: str) -> None:
    """Raise a SharedError that begins with ``start`` and names what differs, if the ranks' facts are not the same."""
    first, *others = gather_objects(facts)
    for number, other in enumerate(others, 1):
        named = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if named:
            more = f" (and {len(named) - 1} more: {', '.join(named[1:6])})" if named[1:] else ""
            here, there = first.get(named[0]), other.get(named[0])
            raise SharedError(f"{start}: {named[0]} is {here!r} on rank 0 and {there!r} on rank {number}{more}")


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Copy the buffers of rank 0, such as BatchNorm's running statistics, to all ranks, in place."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def _sizes(own: Tensor, equal: bool) -> list[int]:
    """The ranks' numbers of rows."""
    if equal:
        return [len(own)] * world_size()
    counts = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(own)], device=own.device))
    return [int(count) for count in counts]


def _gather(tensor: Tensor, sizes: list[int]) -> list[Tensor]:
    """The ranks' tensors; padded to the longest on the way, because all_gather wants equal shapes."""
    padded = tensor.contiguous()
    if max(sizes) > min(sizes):
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return [part[:size] for part, size in zip(gathered, sizes, strict=True)]
