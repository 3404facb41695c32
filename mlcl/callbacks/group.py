"""The processes of a run end together: none waits for hours for one that is gone, none is left behind.

A collective ends with an error when a connection is closed, or after a time. What is done here is the rest: whoever
meets that error says which process is gone or hangs, and ends those of this machine that cannot end by themselves.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed import DistError
from torch.distributed.constants import default_pg_timeout

from mlcl.distributed import gather_objects, leave_note, notes, rank, world_size
from mlcl.errors import MlclError, visible
from mlcl.system import signals

WAIT = timedelta(minutes=20)  # longer than a rank takes alone: compiling, a large split's files and results
_GRACE = 10.0  # seconds for the processes that we started to meet the error by themselves
_LOST = re.compile(r"(?i)gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out|socket|TCPStore")


class _Peer(NamedTuple):
    rank: int
    host: str
    process: int
    started: str  # so that no other process, which has its number by now, is meant


_peers: list[_Peer] = []
_children: list[subprocess.Popen[Any]] = []


def limited(trainer: Any) -> Any:
    """The trainer; its processes wait :data:`WAIT` for each other, not torch's half hour, unless a time was chosen."""
    if getattr(trainer.strategy, "_timeout", None) == default_pg_timeout:
        trainer.strategy._timeout = WAIT
    return trainer


def introduce(children: list[subprocess.Popen[Any]]) -> None:
    """Make the ranks known to each other; ``children`` are those that this process has started."""
    own = _Peer(rank(), socket.gethostname(), os.getpid(), _stat(os.getpid())[1])
    _peers[:] = gather_objects(own)
    if children and not _children:
        _children[:] = children
        for thread in threading.enumerate():  # Lightning's kills us before we can say why (2.6.6)
            if thread.name == "child-process-observer":
                setattr(thread, "_run", lambda: True)  # noqa: B010
        threading.Thread(target=_observe, daemon=True).start()


@contextmanager
def ending() -> Iterator[None]:
    """Around a command: when it fails, so do the others, and what the network reports is told in words.

    Raises:
        MlclError: where another process is the cause.
    """
    _peers.clear()
    _children.clear()
    try:
        yield
    except Exception as error:
        if world_size() < 2:
            if isinstance(error, DistError):
                raise _not_met(error) from error
            raise
        found = _lost(error)
        if found is None:
            leave_note(" ".join(str(error).split())[:600] or type(error).__name__)
        _end_others()
        if found is None:
            raise
        line, speaker = found
        if speaker == rank():
            _say_if_not_first_here(line)
        raise MlclError(line) from error
    finally:
        _children.clear()


def _say_if_not_first_here(line: str) -> None:
    """From a process that is not the first on its machine, which says what it ends with by itself."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        print(f"mlcl: {visible(line)}", file=sys.stderr, flush=True)


def _not_met(error: DistError) -> MlclError:
    """There never was a group: each process that waited says so, as none knows which others are there."""
    known = os.environ.get
    where = f"{known('MASTER_ADDR', '?')}:{known('MASTER_PORT', '?')}"
    which = f"rank {known('RANK', known('LOCAL_RANK', '0'))} of {known('WORLD_SIZE', '?')}"
    reason = " ".join(str(error).split())[:200]
    line = (
        f"{which} did not meet the others at {where} ({reason}); was every rank started, and can it reach that address?"
    )
    _say_if_not_first_here(line)
    return MlclError(line)


def _lost(error: BaseException) -> tuple[str, int] | None:
    """What has happened to the others, where that is what the error means, and the first rank that can say so."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MlclError):
        cause = cause.__cause__ or cause.__context__
    own = str(error).startswith("DataLoader") or not isinstance(error, RuntimeError)  # an OSError is the disk's
    if cause is not None or own or not _LOST.search(str(error)):
        return None
    others = [peer for peer in _peers if peer.rank != rank()]
    stopped = {peer for peer in others if _state(peer) == "T"}  # before one of us ends it
    time.sleep(1.0)  # whoever has closed the connection is on its way out
    states = {peer: "T" if peer in stopped else _state(peer) for peer in others}
    said = notes() if all(state == "S" for peer, state in states.items() if peer.rank == 0) else {}
    found = [f"rank {number} has failed: {text}" for number, text in said.items()]
    for peer, state in states.items():
        if peer.rank not in said and state in "XT":
            what = "has ended" if state == "X" else "is stopped and was ended"
            found.append(f"rank {peer.rank} (process {peer.process}) {what}")
    reason = " ".join(str(error).split())[:200]
    told = "; ".join(found) or f"another process of this run is gone or hangs ({reason})"
    alive = [rank(), *(peer.rank for peer, state in states.items() if state == "S")]
    return f"{told}{_advice()}", min(alive) if _peers else 0


def _advice() -> str:
    """How to go on, where there is something to go on from."""
    return text if (text := signals.advice()).startswith(";") else ""


def _end_others() -> None:
    """Those that were stopped cannot end by themselves; those that we started are given a moment."""
    for peer in _peers:
        if peer.rank != rank() and _state(peer) == "T":
            with suppress(OSError):
                os.kill(peer.process, signal.SIGKILL)
    until = time.monotonic() + _GRACE
    for child in _children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()


def _observe() -> None:
    """In the process that has started the others: some backends do not notice that one is gone."""
    while not any(child.poll() for child in _children):
        if not _children or all(child.returncode == 0 for child in _children):
            return
        time.sleep(0.5)
    time.sleep(2 * _GRACE)  # by then we have met the error, and this thread has ended with us
    if signals.outcome() is not None or not _children:
        return  # a signal has ended them, and us once a file is saved; or who called us goes on without the command
    failed = [(n, child.returncode) for n, child in enumerate(_children, 1) if child.returncode]
    line = "; ".join(f"rank {number} has ended with status {status}" for number, status in failed)
    print(f"mlcl: {line}{_advice()}", file=sys.stderr, flush=True)
    for child in _children:
        child.kill()
    signals.cut_off(1)


def _state(peer: _Peer) -> str:
    """``X`` gone, ``T`` stopped, ``S`` running; also of a process on another machine, which cannot be seen."""
    if peer.host != socket.gethostname():
        return "S"
    state, started = _stat(peer.process)
    return "X" if started != peer.started or state in "XZ" else "T" if state in "Tt" else "S"


def _stat(process: int) -> tuple[str, str]:
    """State and time of start; where there is no /proc, whether there is such a process."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "X", ""
        return fields[0], fields[19]
    try:
        os.kill(process, 0)
    except OSError:
        return "X", ""
    return "S", "unknown"
