"""torchrun with several "nodes" on this machine: each is a process group's worth of ``python -m mlcl``."""

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

multiprocessing.set_forkserver_preload(["mlcl.module"])  # imported once, not in every process


def start_nodes(
    nodes: int, each: int, *arguments: str, cwd: Path, own: Path | None = None, **environment: str
) -> list[subprocess.Popen[str]]:
    """Start ``each`` processes on every node; returns the launcher of each node.

    Of the folder ``own`` each node sees one of its own in its place: ``<own>-<node>``.
    """
    port, started = _free_port(), []
    for node in range(nodes):
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={each}"]
        launcher += [f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}", "--max-restarts=0"]
        command = [*launcher, "-m", "mlcl", *map(str, arguments)]
        if own is not None:
            for folder in (own, (place := own.with_name(f"{own.name}-{node}"))):
                folder.mkdir(exist_ok=True)
            mounted = 'mount --bind "$0" "$1"; shift; exec "$@"'
            command = ["unshare", "--map-root-user", "--mount", "sh", "-ec", mounted, place, own, *command]
        environ = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=cwd, env=environ, **pipes))
    return started


def can_hide_folders() -> bool:
    """Whether a node can be given a folder of its own in place of one that all see."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False).returncode == 0
    )


def run_nodes(
    nodes: int, each: int, *arguments: str, cwd: Path, own: Path | None = None, **environment: str
) -> tuple[list[int], str, str]:
    """Run them to their end; returns the status of each node, and all that they printed on stdout and stderr."""
    started = start_nodes(nodes, each, *arguments, cwd=cwd, own=own, **environment)
    try:
        texts = [node.communicate(timeout=240) for node in started]
    finally:
        for node in started:
            node.kill()
    return [node.returncode for node in started], "".join(out for out, _ in texts), "".join(err for _, err in texts)


def run_ranks(nodes: int, each: int, *arguments: str, cwd: Path) -> None:
    """Run ``mlcl`` in processes with the environment that torchrun gives them, forked from one that has torch.

    ProcessRaisedException unless each ends with status 0.
    """
    import torch.multiprocessing as mp

    given = nodes, each, _free_port(), cwd, arguments
    mp.start_processes(_rank, args=given, nprocs=nodes * each, start_method="forkserver")


def _rank(rank: int, nodes: int, each: int, port: int, cwd: Path, arguments: tuple[str, ...]) -> None:
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    from mlcl.__main__ import main

    places = {"RANK": rank, "LOCAL_RANK": rank % each, "GROUP_RANK": rank // each, "MASTER_PORT": port}
    sizes = {"WORLD_SIZE": nodes * each, "LOCAL_WORLD_SIZE": each, "GROUP_WORLD_SIZE": nodes}
    os.environ |= {name: str(value) for name, value in (places | sizes).items()}
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    multiprocessing.set_start_method("fork", force=True)  # of loaders; here it is that of this process
    rank_zero_only.rank = rank  # Lightning looks at the environment when it is imported
    torch.set_num_threads(1)
    os.chdir(cwd)
    assert main([*map(str, arguments)]) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
