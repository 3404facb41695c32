"""Killed, stopped, out of disk: what is on the disk is whole, and a run that goes on equals one never stopped."""

import os
import random
import re
import resource
import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lives import alive, assert_same_run, at, live, sadcl, when_there_is

from mlcl.runs import record
from mlcl.system import signals

LAST, SAVING = (f"runs/victim/*/checkpoints/.{name}.*.partial.ckpt" for name in ("last", "*"))
CACHE = "pixels/.*.partial.npy"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_whole(folder: Path) -> None:
    for file in folder.glob("runs/*/*/checkpoints/[!.]*.ckpt"):
        record.load(file)


def assert_last_is_refused_in_one_line(mlcl, flags: list[str]) -> None:
    before = sorted(Path("runs/victim").glob("*"))
    outcome = mlcl("fit", *flags, "--ckpt_path", "last")
    assert outcome.status == 1 and outcome.err.startswith("mlcl: --ckpt_path last: no run under")
    assert outcome.err.count("\n") == 1 and sorted(Path("runs/victim").glob("*")) == before


def assert_finished_like_an_undisturbed_run(mlcl, flags: list[str], run: str) -> None:
    done = mlcl("fit", *flags, "--ckpt_path", "last")
    assert done.status == 0, done.err
    assert not [*Path().glob("runs/victim/*/.*"), *Path().glob("runs/victim/*/checkpoints/.*")]
    whole = mlcl("fit", *flags, "--name", "whole")
    assert whole.status == 0, whole.err
    assert_same_run(Path("runs/whole/version_0"), Path("runs/victim") / run)


def command_of(status: int, err: str, epochs: int) -> list[str]:
    """The arguments that the last line of a stopped training says to go on with."""
    said, _, command = err.splitlines()[-1].partition("continue with: mlcl ")
    assert status > 128 and f"epoch {epochs} is saved" in said, err
    return shlex.split(command)


# A callback of a user's that ends this process's training in some way.
ENDS = """
import os, resource, signal
from lightning import Callback
class Ends(Callback):
    def __init__(self, how: str, epoch: int):
        self.how, self.epoch = how, epoch
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            if self.how == "full":  # no file may grow to a checkpoint's size
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
            else:
                os.kill(os.getpid(), getattr(signal, self.how))
"""


@pytest.fixture
def signals_as_from_a_terminal() -> Iterator[None]:
    """A suite that was started by nohup, or in a shell's background, has inherited that some are ignored."""
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in (signal.SIGHUP, signal.SIGTERM)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("signals_as_from_a_terminal")
def test_one_run_through_every_kind_of_end(mlcl, demo, here):
    """Each training goes on from what the one before has left; the last result is that of a run never stopped."""
    Path("own_ends.py").write_text(ENDS)
    flags, again = sadcl(demo, here, 3), ["--ckpt_path", "last"]

    def ended(how: str, epoch: int, *more: str):
        callback = ["--trainer.callbacks+", "own_ends.Ends", "--trainer.callbacks.how", how]
        return mlcl("fit", *flags, *callback, "--trainer.callbacks.epoch", str(epoch), *more)

    end = ended("SIGTERM", 0)
    assert end.status == 143 and "nothing to continue from" in end.err.splitlines()[-1], end.err
    assert_last_is_refused_in_one_line(mlcl, flags)

    end = ended("SIGINT", 1)  # to a group with the loader's processes: test_two_processes_stop_together
    assert end.status == 130
    last = Path(command_of(end.status, end.err, 1)[-1])

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        end = ended("full", 1, *again)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = end.err.splitlines()[-1]
    assert end.status == 1 and re.match(rf"mlcl: {last.parent}/(best|last)\.ckpt .* before it is kept", line), end.err
    assert {file.name for file in last.parent.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert record.load(last)["epoch"] == 0

    end = live(["fit", *flags, *again], here, when_there_is(LAST), signal.SIGKILL, forked=True)
    assert end.status == -signal.SIGKILL
    assert_whole(here)
    assert_finished_like_an_undisturbed_run(mlcl, flags, last.parent.parent.name)


@pytest.mark.usefixtures("signals_as_from_a_terminal")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda signum: signum.name)
def test_a_file_being_written_is_finished(here, signum):
    file, before = here / "file", signal.getsignal(signum)
    with signals.watching():
        with pytest.raises(signals.Stopped), signals.held():
            os.kill(os.getpid(), signum)
            os.kill(os.getpid(), signal.SIGINT)  # a second one changes nothing
            file.write_text("whole")
        signals.advise(lambda: "; go on")
        said = "interrupted" if signum == signal.SIGINT else f"stopped by {signum.name}"
        assert signals.outcome() == (f"{said}; go on", 128 + signum) and file.read_text() == "whole"
        with pytest.raises(signals.Stopped):  # as after a batch, where Python has ignored the exception
            signals.check()
    assert signal.getsignal(signum) == before


@pytest.mark.slow
def test_killed_twenty_times(mlcl, demo, here):
    """One run with twenty kills in its life; what it is at the end has been through all of them."""
    chance = random.Random(0)
    flags = [*sadcl(demo, here, 16), "--data.cache", "disk", "--data.cache_dir", "pixels", "--data.num_workers", "1"]
    moments = ["caching"] * 2 + ["training"] * 5 + ["validation"] * 4 + ["saving"] * 6
    chance.shuffle(moments)
    moments = ["caching", "validation", "training", *moments]  # the first two before there is any checkpoint
    fell: Counter[str] = Counter()
    for number, what in enumerate(moments):
        later = int(number > 1 and number % 2 == 0)
        if what == "caching":
            shutil.rmtree("pixels", ignore_errors=True)
        until = {
            "caching": when_there_is(CACHE),
            "training": at(f"train.{chance.randrange(3)}", later),
            "validation": at(f"validation.{chance.randrange(2)}", later),
            "saving": when_there_is(SAVING),  # the best where there is a better one, else the last
        }[what]
        goes_on = any(here.glob("runs/victim/*/checkpoints/last.ckpt"))
        if not goes_on:
            assert_last_is_refused_in_one_line(mlcl, flags)
        end = live(["fit", *flags, *(["--ckpt_path", "last"] if goes_on else [])], here, until, signal.SIGKILL,
                   delay=chance.random() * (0.03 if what in ("training", "validation") else 0.005))  # fmt: skip
        saved = {file.name: record.load(file)["epoch"] for file in here.glob("runs/victim/*/checkpoints/[!.]*.ckpt")}
        left = [file.name for file in (*here.glob(SAVING), *here.glob(CACHE))]
        with open("kills.txt", "a") as log:
            print(f"{number + 1:2} {what:12} status {end.status}, last seen {(end.moments or ['-'])[-1]:15} "
                  f"epochs saved {saved}, left {left}", file=log)  # fmt: skip
        fell[what] += end.status == -signal.SIGKILL
        assert_whole(here)
    assert sum(fell.values()) == 20, Path("kills.txt").read_text()
    run = sorted(path.parent.parent.name for path in here.glob("runs/victim/*/checkpoints/last.ckpt"))
    assert len(run) == 1
    assert_finished_like_an_undisturbed_run(mlcl, flags, run[0])


@pytest.mark.slow
def test_the_command_that_goes_on_is_short_without_classes_of_the_users_own(mlcl, demo, here):
    flags = sadcl(demo, here, 3)
    flags = flags[: flags.index("--trainer.callbacks+")]
    end = live(["fit", *flags], here, when_there_is("runs/victim/*/checkpoints/last.ckpt"), signal.SIGTERM)
    place = "runs/victim/version_0/checkpoints/last.ckpt"
    match = re.search(r"epoch \d is saved, continue with: mlcl (.*)", end.err.splitlines()[-1])
    assert match and match[1] == f"fit --ckpt_path {place}", end.err
    os.chdir(here)
    assert mlcl(*shlex.split(match[1])).status == 0
    assert mlcl("fit", *flags, "--name", "whole").status == 0
    assert_same_run(Path("runs/whole/version_0"), Path("runs/victim/version_0"))


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "group"), [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGTERM, True)])
def test_two_processes_stop_together(demo, here, signum, group):
    """The first one alone is told, as by an agent; or both, as by a terminal."""
    flags = [*sadcl(demo, here, 40), "--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.num_workers", "1"]
    sessions: list[int] = []

    def stop(process: int) -> None:
        sessions.append(process)
        (os.killpg if group else os.kill)(process, signum)

    end = live(["fit", *flags], here, at("train.0", 1), signum, delay=random.random() / 10, do=stop, forked=True)
    assert end.status == 128 + signum
    command_of(end.status, end.err, 1)
    assert end.err.count("continue with") == 1
    assert_whole(here)
    for _ in range(100):
        if not (left := alive(sessions[0])):
            break
        signal.sigtimedwait([], 0.1)
    assert not left


@pytest.mark.slow
def test_slurms_requeue_is_left_to_lightning(demo, here, monkeypatch):
    """Its signal saves and asks SLURM to start the job again; the SIGTERM that follows ends it with its status."""
    asked, tool = here / "asked.txt", here / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" > {asked}\nkill -TERM $PPID\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "77", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0",
                        "JOB_NAME": "train", "NODELIST": "localhost", "NTASKS_PER_NODE": "1"}.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    end = live(["fit", *sadcl(demo, here, 40)], here, at("train.0", 1), signal.SIGUSR1)
    assert asked.read_text().strip() == "requeue 77"
    assert end.status == 143 and "Traceback" not in end.err, end.err
    assert record.load(here / "runs/victim/version_0/hpc_ckpt_1.ckpt")["epoch"] == 1


REMOVER = """
import shutil
from lightning import Callback
class Remover(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            shutil.rmtree(trainer.default_root_dir)
"""


def test_a_run_whose_folder_is_removed_ends_with_an_error(mlcl, demo):
    Path("own_remover.py").write_text(REMOVER)
    done = mlcl("fit", *demo, "--name", "gone", "--trainer.callbacks+", "own_remover.Remover")
    assert done.status == 1 and "runs/gone/version_0" in done.err and "Traceback" not in done.err, done.err
