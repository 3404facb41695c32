"""``mlcl predict`` in processes that can be killed: all from one that has imported it, so that each costs little."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable

import support.gloo  # noqa: F401  (says what is imported before)


def start(*arguments: str) -> multiprocessing.Process:
    """Start ``mlcl`` with these arguments; paths must be absolute."""
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=([*map(str, arguments)],))
    process.start()
    return process


def kill_once(reached: Callable[[], bool], *arguments: str) -> bool:
    """Start it and kill it by SIGKILL at that moment; whether it was still running."""
    process = start(*arguments)
    until = time.monotonic() + 120
    while process.is_alive() and not reached():
        assert time.monotonic() < until, "the moment does not come"
        time.sleep(0.0005)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _run(arguments: list[str]) -> None:
    import torch

    from mlcl.__main__ import main

    torch.set_num_threads(1)
    sys.exit(main(arguments))
