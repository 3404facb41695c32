"""DDP over 1, 2, 4, ... devices: images per second, and how much of n times one device that is."""

import json
import tempfile
import time
from pathlib import Path

import gpu_steps
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from gpu_steps import Sizes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mlcl.module import MultiLabelModule


class Losses(nn.Module):
    """The module's losses as a forward pass, which is what DDP wraps."""

    def __init__(self, module: MultiLabelModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.module.losses(batch)


def scaling(sizes: Sizes, device: torch.device) -> list[dict[str, float]]:
    """One row per number of processes: powers of two up to all devices; on a CPU, 1 and 2."""
    most = torch.cuda.device_count() if device.type == "cuda" else 2
    rows: list[dict[str, float]] = []
    for number in (2**power for power in range(most.bit_length())):
        seconds = _run(number, sizes, device)
        speed = number * sizes.images * sizes.steps / seconds
        single = rows[0]["images_per_second"] if rows else speed
        rows.append({"devices": number, "images_per_second": speed, "efficiency": speed / number / single})
    return rows


def _run(number: int, sizes: Sizes, device: torch.device) -> float:
    """The median window of steps that this many processes do together, in seconds."""
    how = "spawn" if device.type == "cuda" else "fork"  # CUDA does not survive a fork; without it a fork is quicker
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_member, (number, sizes, device.type, folder), nprocs=number, start_method=how)
        return json.loads(Path(folder, "seconds.json").read_text())


def _member(rank: int, number: int, sizes: Sizes, kind: str, folder: str) -> None:
    """One process of the group; the first writes the time."""
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=number)
    try:
        torch.manual_seed(0)
        module = gpu_steps.our_module(gpu_steps.LEAN, True, sizes, processes=number).to(device)
        wrapped = DistributedDataParallel(Losses(module), device_ids=[rank] if kind == "cuda" else None)
        step = gpu_steps.our_step(module, wrapped, gpu_steps.batch(sizes, device), device)
        step()
        windows = [_window(step, sizes, kind) for _ in range(sizes.repeats)]
        if rank == 0:
            Path(folder, "seconds.json").write_text(json.dumps(sorted(windows)[len(windows) // 2]))
    finally:
        dist.destroy_process_group()


def _window(step: gpu_steps.Step, sizes: Sizes, kind: str) -> float:
    """Seconds that several steps of all processes take."""
    dist.barrier()
    start = time.perf_counter()
    for _ in range(sizes.steps):
        step()
    if kind == "cuda":
        torch.cuda.synchronize()
    dist.barrier()
    return time.perf_counter() - start
