"""``mlcl`` in processes forked from one that has imported it: they start at once, and take real signals."""

import multiprocessing
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import support.gloo  # noqa: F401  (says what is imported before)


class Forked:
    """One process in a session of its own, used as ``subprocess.Popen`` is; what it says is in two files."""

    def __init__(self, arguments: list[str], cwd: Path, name: str = "", **environment: str) -> None:
        self.out, self.err = (cwd / f"{stream}{name}.txt" for stream in ("out", "err"))
        given = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", **environment}  # that of the first process is an old one
        self.process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=([*map(str, arguments)], cwd, given, self.out, self.err)
        )
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float = 240) -> int:
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it does not end"
        return self.process.exitcode

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)


def _run(arguments: list[str], cwd: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    from mlcl.__main__ import main

    os.setsid()
    as_from_a_terminal()
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    multiprocessing.set_start_method("fork", force=True)  # of loaders; here it is that of this process
    rank_zero_only.rank = int(environment.get("RANK", "0"))  # Lightning looks at it when it is imported
    torch.set_num_threads(1)
    sys.argv, sys.modules["__main__"].__spec__ = ["mlcl", *arguments], find_spec("mlcl.__main__")  # as python -m mlcl
    sys.exit(main(arguments))


def as_from_a_terminal() -> None:
    """Tests that are started in a shell's background, or by nohup, would hand down that these are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
