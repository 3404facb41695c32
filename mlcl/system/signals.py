"""SIGINT, SIGTERM and SIGHUP end a command at once, in one line, with the usual status; a file being saved is finished.

Standard library only: it is there before torch is imported.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, NoReturn

_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # the terminal was closed
    _SIGNALS.append(signal.SIGHUP)
_PATIENCE = 1.0  # seconds in which further signals count as the first one: agents and terminals send several
_GRACE = 2.0  # seconds for the processes that we started
_DEAF = 5.0  # seconds after which Python, which has not run the handler, will not run it soon


class Stopped(BaseException):
    """A signal asks us to end. No ``Exception``, so that nobody takes it for an error of his own and goes on."""


@dataclass
class _State:
    """What is known of the command that runs in this process."""

    process: int = 0
    signum: int | None = None
    since: float = 0.0
    held: int = 0
    left_to_lightning: bool = False
    advice: Callable[[], str] = str
    launchers: list[Any] = field(default_factory=list)
    ending: list[subprocess.Popen[Any]] = field(default_factory=list)


_state = _State()
_undo: list[Callable[[], None]] = []


@contextmanager
def watching() -> Iterator[None]:
    """Around a command: signals raise :class:`Stopped` in it. One that is ignored (``nohup``) stays ignored."""
    global _state
    _state = _State(os.getpid())
    before: dict[signal.Signals, Any] = {}
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    threading.Thread(target=_listen, args=(ear,), daemon=True).start()
    other = -1
    with suppress(ValueError):  # only the main thread may
        for signum in _SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                before[signum] = signal.signal(signum, _received)
        other = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        _end_others()
        for signum, handler in before.items():
            signal.signal(signum, handler)
        with suppress(ValueError):
            signal.set_wakeup_fd(other)
        mouth.close()  # ends the thread


def take_back() -> None:
    """Lightning has registered a handler of its own: replace it.

    Its handler (2.6.6) starts a collective wherever the process happens to be, which hangs when the others are in
    another one, and goes on for a batch; and it has nothing to save.
    """
    with suppress(ValueError):
        signal.signal(signal.SIGTERM, _received)


def leave_to_lightning() -> None:
    """Under SLURM's auto-requeue SIGTERM only ends the loop at the next batch: a requeue may be under way."""
    _state.left_to_lightning = True


def advise(advice: Callable[[], str]) -> None:
    """What to say after "stopped": how the command is continued."""
    _state.advice = advice


def ends_with_us(launcher: Any) -> None:
    """Its ``procs`` are to be ended with this one; Lightning makes a new list when it starts them (2.6.6)."""
    _state.launchers.append(launcher)


def when_ending(undo: Callable[[], None]) -> None:
    """At the end of this process, also where it is cut off because a thread of it cannot end."""
    atexit.register(undo)
    _undo.append(undo)


def cut_off(status: int) -> NoReturn:
    """End this process without waiting for what its threads do."""
    for undo in _undo:
        with suppress(Exception):
            undo()
    os._exit(status)


def outcome() -> tuple[str, int] | None:
    """The line and the exit status of a command that a signal has ended; None where there was no signal."""
    if _state.signum is None:
        return None
    what = "interrupted" if _state.signum == signal.SIGINT else f"stopped by {signal.Signals(_state.signum).name}"
    return f"{what}{advice()}", 128 + _state.signum


def advice() -> str:
    """How the command is continued, as the end of a line; empty where that cannot be said."""
    try:
        return _state.advice()
    except Exception:  # a good advice is not worth a traceback
        return ""


def check() -> None:
    """Raise it again, should the place where it was raised have swallowed it (Python does so in ``__del__``)."""
    if _state.signum is not None and not (_state.held or _state.left_to_lightning):
        raise Stopped


@contextmanager
def held() -> Iterator[None]:
    """Around what is worth finishing: a signal counts afterwards."""
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
    check()


def _received(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _state.process:
        _in_a_fork(signum)
    elif _state.signum is None:
        _state.signum, _state.since = signum, time.monotonic()
        if hasattr(signal, "SIGCHLD"):
            # A loader's process that had the same signal: torch's handler would raise wherever we are by then.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _collect_others()
        for process in _state.ending:
            with suppress(OSError):
                process.send_signal(signal.SIGTERM)
        check()
    elif time.monotonic() - _state.since > _PATIENCE:
        _end_others(grace=0.0)
        cut_off(128 + signum)


def _in_a_fork(signum: int) -> NoReturn:
    """A loader's process that has inherited the handler: as if there were none."""
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    os._exit(128 + signum)


def _begin_fork() -> None:
    """A loader's process inherits all of this; its signals are none of ours."""
    if _state.process:
        signal.set_wakeup_fd(-1)
        sys.excepthook = _unless_hung_up


def _unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Stopped in the middle of taking a batch over, we hang up on the loader's thread that hands it over."""
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_fork)


def _listen(ear: socket.socket) -> None:
    """The system hears a signal where Python cannot: in a collective that waits for a process that hangs."""
    with ear:
        while heard := ear.recv(1):
            if heard[0] not in _SIGNALS:
                continue
            time.sleep(_DEAF)
            if _state.signum is None and not _state.held and signal.getsignal(heard[0]) is _received:
                _state.signum = heard[0]
                _collect_others()
                _end_others(grace=0.0)
                line, status = outcome() or ("", 1)
                if os.environ.get("LOCAL_RANK", "0") == "0":
                    print(f"mlcl: {line}", file=sys.stderr, flush=True)
                cut_off(status)


def _collect_others() -> None:
    for launcher in _state.launchers:
        # Emptied, because Lightning's observer kills this process as soon as it sees one of them end.
        _state.ending += launcher.procs
        launcher.procs.clear()


def _end_others(grace: float = _GRACE) -> None:
    """Those who wait for us in a collective never hear a SIGTERM; nothing is lost in them."""
    until = time.monotonic() + grace
    for process in _state.ending:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(OSError):
                process.kill()
