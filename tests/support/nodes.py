"""torchrun with several "nodes" on this machine: each is a process group's worth of ``python -m mlcl``."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path


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


def ranks_environment(nodes: int, each: int) -> list[dict[str, str]]:
    """What torchrun tells each of its processes."""
    sizes = {"WORLD_SIZE": nodes * each, "LOCAL_WORLD_SIZE": each, "GROUP_WORLD_SIZE": nodes}
    same = {**sizes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "TORCHELASTIC_RUN_ID": "test"}
    places = [{"RANK": n, "LOCAL_RANK": n % each, "GROUP_RANK": n // each} for n in range(nodes * each)]
    return [{name: str(value) for name, value in (same | place).items()} for place in places]


def run_ranks(nodes: int, each: int, *arguments: str, cwd: Path) -> tuple[list[int], str]:
    """Run ``mlcl`` in processes that were told as by torchrun; returns their statuses, and what they said on stderr."""
    from support.forked import Forked

    told = ranks_environment(nodes, each)
    started = [Forked([*arguments], cwd, f"-{rank}", **environment) for rank, environment in enumerate(told)]
    try:
        statuses = [rank.wait() for rank in started]
    finally:
        for rank in started:
            rank.process.kill()
    return statuses, "".join(rank.err.read_text() for rank in started)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
