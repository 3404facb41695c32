"""torchrun with several "nodes" on this machine: each is a process group's worth of ``python -m mlcl``."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def start_nodes(nodes: int, each: int, *arguments: str, cwd: Path, **environment: str) -> list[subprocess.Popen[str]]:
    """Start ``each`` processes on every node; returns the launcher of each node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for node in range(nodes):
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={each}"]
        launcher += [f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}", "--max-restarts=0"]
        command = [*launcher, "-m", "mlcl", *map(str, arguments)]
        environ = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=cwd, env=environ, **pipes))
    return started


def run_nodes(nodes: int, each: int, *arguments: str, cwd: Path, **environment: str) -> tuple[list[int], str, str]:
    """Run them to their end; returns the status of each node, and all that they printed on stdout and stderr."""
    started = start_nodes(nodes, each, *arguments, cwd=cwd, **environment)
    try:
        texts = [node.communicate(timeout=240) for node in started]
    finally:
        for node in started:
            node.kill()
    return [node.returncode for node in started], "".join(out for out, _ in texts), "".join(err for _, err in texts)
