"""SIGINT, SIGTERM and SIGHUP end a command in one line with status 130, 143 or 129; a file being saved is finished.

Standard library only: it is used before torch is imported.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_GRACE = 2.0  # seconds in which the processes that we started may end by themselves


class Stopped(BaseException):
    """A signal asks the command to end. No ``Exception``, so that no handler of errors swallows it."""


@dataclass
class _State:
    """The command that runs in this process."""

    process: int = 0
    signum: int | None = None
    held: int = 0
    advice: Callable[[], str] = str
    launchers: list[Any] = field(default_factory=list)
    ending: list[subprocess.Popen[Any]] = field(default_factory=list)


_state = _State()


@contextmanager
def watching() -> Iterator[None]:
    """Around a command: the first signal raises :class:`Stopped`, later ones do nothing (SIGQUIT still kills).

    A signal that is ignored (``nohup``) stays ignored. Python acts on a signal once C++ code returns.
    """
    global _state
    _state = _State(os.getpid())
    main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    before = {s: h for s in _SIGNALS if main and (h := signal.getsignal(s)) != signal.SIG_IGN}
    for signum in before:
        signal.signal(signum, _received)
    try:
        yield
    finally:
        _kill_after_grace()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def take_back() -> None:
    """Replace the SIGTERM handler that Lightning (2.6.6) registers: it starts a collective, which may hang."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _received)


def advise(advice: Callable[[], str]) -> None:
    """Set what follows "stopped" in the last line: the command that goes on."""
    _state.advice = advice


def outcome() -> tuple[str, int] | None:
    """The last line and the exit status of a command that a signal has ended; None if there was no signal."""
    if _state.signum is None:
        return None
    line = "interrupted" if _state.signum == signal.SIGINT else f"stopped by {signal.Signals(_state.signum).name}"
    with suppress(Exception):  # the line counts, with or without advice
        line += _state.advice()
    return line, 128 + _state.signum


def check() -> None:
    """Raise :class:`Stopped` again if there was a signal: Python ignores exceptions inside ``__del__``."""
    if _state.signum is not None and not _state.held:
        raise Stopped


@contextmanager
def held() -> Iterator[None]:
    """Around the writing of a file: a signal takes effect afterwards."""
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
    check()


def ends_with_us(launcher: Any) -> None:
    """Register a Lightning launcher, whose ``procs`` are to end when this process is stopped or fails."""
    _state.launchers.append(launcher)


def collect_children() -> None:
    """Take over the launchers' processes; they are killed if they are still there shortly after the command.

    The lists are emptied, because Lightning's observer (2.6.6) kills this process once one of those in them has failed.
    """
    for launcher in _state.launchers:
        _state.ending += launcher.procs
        launcher.procs.clear()


def _received(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _state.process:  # a data loader's worker, which has inherited this handler
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        os._exit(128 + signum)
    if _state.signum is None:
        _state.signum = signum
        collect_children()
        for child in _state.ending:
            with suppress(OSError):
                child.send_signal(signal.SIGTERM)
        check()


def _kill_after_grace() -> None:
    """Processes that wait in a collective, or hang, do not act on SIGTERM."""
    until = time.monotonic() + _GRACE
    for child in _state.ending:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
