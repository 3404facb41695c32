"""A real group of processes on this machine."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(["mlcl.module"])  # imported once, not in every process


def run_group(size: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Call ``function(rank, size, *arguments)`` in ``size`` gloo processes; returns what each returned."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.start_processes(_member, args=(size, function, folder, arguments), nprocs=size, start_method="forkserver")
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(size)]


def _member(rank: int, size: int, function: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    try:
        torch.save(function(rank, size, *arguments), folder / f"result-{rank}.pt")
    finally:
        dist.destroy_process_group()
