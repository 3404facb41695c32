"""Trainings in processes of their own that are ended at a chosen moment, by a real signal."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from support.forked import Forked, as_from_a_terminal
from support.running import REPOSITORY

# A callback of a user's, by which the test knows where the process is.
MOMENTS = """
from lightning import Callback
class Moments(Callback):
    def _note(self, trainer, what):
        if trainer.is_global_zero and not trainer.sanity_checking:
            with open("moments.txt", "a") as file:
                file.write(f"{what} {trainer.current_epoch}\\n")
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self._note(trainer, f"train.{batch_idx}")
    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self._note(trainer, f"validation.{batch_idx}")
    def on_test_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self._note(trainer, f"test.{batch_idx}")
"""


def sadcl(demo: list[str], folder: Path, epochs: int) -> list[str]:
    """Flags of a small training with all the state there is: moving average, projector, bank, prototypes, OneCycle."""
    (folder / "own_moments.py").write_text(MOMENTS)
    return [
        *(*demo, "--config", str(REPOSITORY / "configs" / "methods" / "sadcl.yaml"), "--name", "victim"),
        *("--model.network.head.dim", "32", "--model.network.head.heads", "2", "--ema_decay", "0.9"),
        *("--model.embedding_loss.projection", "64", "--model.embedding_loss.confidence", "0.1"),
        *("--trainer.max_epochs", str(epochs), "--trainer.log_every_n_steps", "1", "--data.val_fraction", "0.4"),
        *("--trainer.callbacks+", "own_moments.Moments"),
    ]


@dataclass
class End:
    """How a process ended: status (negative: the signal that killed it), what it said, the last moments before."""

    status: int
    err: str
    moments: list[str]


Moment = Callable[[Path, list[str]], bool]


def at(what: str, epochs: int = 0) -> Moment:
    """When this is going on in the (epochs + 1)-th epoch that the process sees."""

    def reached(folder: Path, moments: list[str]) -> bool:
        seen = list(dict.fromkeys(moment.split()[1] for moment in moments))
        return len(seen) > epochs and f"{what} {seen[epochs]}" in moments

    return reached


def when_there_is(pattern: str) -> Moment:
    """Once there is a file of such a name that this process has made: an earlier one may have left its own."""
    before: set[tuple[Path, int]] | None = None

    def reached(folder: Path, moments: list[str]) -> bool:
        nonlocal before
        now = set()
        for file in folder.glob(pattern):
            with suppress(FileNotFoundError):
                now.add((file, file.stat().st_ctime_ns))
        before = now if before is None else before
        return bool(now - before)

    return reached


def live(
    arguments: list[str],
    folder: Path,
    until: Moment,
    signum: int,
    delay: float = 0.0,
    group: bool = False,
    do: Callable[[int], None] | None = None,
    forked: bool = False,
) -> End:
    """Start ``mlcl`` with these arguments and send it a signal at that moment (or do something else to it).

    If ``forked``, it is spared the start of Python.
    """
    notes = folder / "moments.txt"
    notes.unlink(missing_ok=True)
    with open(folder / "out.txt", "w") as out, open(folder / "err.txt", "w") as err:
        process = Forked(arguments, folder) if forked else subprocess.Popen(
            [sys.executable, "-m", "mlcl", *map(str, arguments)],
            cwd=folder, stdout=out, stderr=err, start_new_session=True, preexec_fn=as_from_a_terminal,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 240
            while process.poll() is None and not until(folder, _lines(notes)):
                assert time.monotonic() < deadline, "the moment does not come"
                time.sleep(0.0005)
            time.sleep(delay)
            if process.poll() is None:
                if do is not None:
                    do(process.pid)
                elif group:
                    os.killpg(process.pid, signum)
                else:
                    process.send_signal(signum)
            status = process.wait(120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return End(status, (folder / "err.txt").read_text(), _lines(notes))


def _lines(file: Path) -> list[str]:
    text = file.read_text() if file.is_file() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def alive(session: int) -> list[int]:
    """Processes of a session that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, moving average, bank, prototypes, optimizer, schedule, log and results: equal bit for bit."""
    for name in ("last", "best"):
        one, other = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (a, b))
        for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers",
                     "epoch", "global_step"):  # fmt: skip
            assert (part in one) == (part in other)
            if part in one:
                assert_equal(one[part], other[part], f"{name}.ckpt: {part}")
    for name in ("metrics.csv", "per_class.csv"):
        one, other = (list(csv.reader((run / name).read_text().splitlines())) for run in (a, b))
        assert one == other, name
    one, other = (json.loads((run / "metrics.json").read_text()) for run in (a, b))
    assert {**one, "checkpoint": ""} == {**other, "checkpoint": ""}


def assert_equal(a: Any, b: Any, where: str) -> None:
    """The same values in the same structure."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_equal(one, other, f"{where}.{number}")
    else:
        assert a == b, where
