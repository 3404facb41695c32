"""Killed, told to stop, out of disk: what is on the disk is whole, and a run that goes on equals one never stopped."""

import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from support.lives import alive, assert_same_run, at, live, sadcl, when_there_is

from mlcl.runs import record

LAST, SAVING = (f"runs/victim/*/checkpoints/.{name}.ckpt.partial" for name in ("last", "*"))
CACHE = "pixels/.*.partial.npy"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_whole(folder: Path) -> None:
    for file in folder.glob("runs/*/*/checkpoints/*.ckpt"):
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


def test_killed_while_caching_validating_and_saving(mlcl, demo, here):
    flags = [*sadcl(demo, here, 4), "--data.cache", "disk", "--data.cache_dir", "pixels"]
    killed = partial(live, folder=here, signum=signal.SIGKILL)
    assert killed(["fit", *flags], until=when_there_is(CACHE)).status == -signal.SIGKILL
    assert_last_is_refused_in_one_line(mlcl, flags)
    # The moving average is in the network's place.
    assert killed(["fit", *flags], until=at("validation.0", 1)).status == -signal.SIGKILL
    assert_whole(here)
    again = ["fit", *flags, "--ckpt_path", "last"]
    assert killed(again, until=when_there_is(LAST)).status == -signal.SIGKILL
    assert_whole(here)
    assert_finished_like_an_undisturbed_run(mlcl, flags, "version_1")


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
        saved = {file.name: record.load(file)["epoch"] for file in here.glob("runs/victim/*/checkpoints/*.ckpt")}
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


def test_a_closed_terminal_is_a_signal_like_the_others(demo, here):
    """Its line has nowhere to go then; what counts is that the end is in order, and shared memory given back."""
    flags = [*sadcl(demo, here, 40), "--data.cache", "ram", "--data.cache_dir", "cached"]
    end = live(["fit", *flags], here, at("train.1", 1), signal.SIGHUP)
    assert end.status == 129 and "mlcl: stopped by SIGHUP; epoch 1 is saved, continue with: mlcl fit" in end.err
    assert Path("cached").is_dir() and not list(Path("cached").glob("*.npy"))
    assert_whole(here)


def test_stopped_by_a_signal_says_how_to_go_on(mlcl, demo, here):
    """SIGTERM before there is anything to continue from, SIGINT in a training epoch, SIGTERM while saving."""
    flags = sadcl(demo, here, 4)
    end = live(["fit", *flags], here, at("train.1"), signal.SIGTERM)
    assert end.status == 143 and "Traceback" not in end.err
    assert end.err.splitlines()[-1] == (
        "mlcl: stopped by SIGTERM before the end of the first epoch: there is nothing to continue from, start again"
    )
    assert_last_is_refused_in_one_line(mlcl, flags)
    end = live(["fit", *flags, "--data.num_workers", "1"], here, at("train.1", 1), signal.SIGINT, group=True)
    last = "runs/victim/version_1/checkpoints/last.ckpt"
    assert end.status == 130 and "Traceback" not in end.err, end.err
    command = end.err.splitlines()[-1].partition("mlcl: interrupted; epoch 1 is saved, continue with: mlcl ")[2]
    assert shlex.split(command)[-2:] == ["--ckpt_path", last], end.err
    end = live(shlex.split(command), here, when_there_is(LAST), signal.SIGTERM)
    assert end.status == 143 and "stopped by SIGTERM; epoch 2 is saved" in end.err.splitlines()[-1], end.err
    assert_finished_like_an_undisturbed_run(mlcl, flags, "version_1")


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


@pytest.mark.parametrize(
    ("signum", "group"),
    [
        (signal.SIGTERM, False),
        *(pytest.param(s, True, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGTERM)),
    ],
)
def test_two_processes_stop_together(demo, here, signum, group):
    """The first one alone is told, as by an agent; or both, as by a terminal."""
    flags = [*sadcl(demo, here, 40), "--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.num_workers", "1"]
    sessions: list[int] = []

    def stop(process: int) -> None:
        sessions.append(process)
        (os.killpg if group else os.kill)(process, signum)

    end = live(["fit", *flags], here, at("train.0", 1), signum, delay=random.random() / 10, do=stop)
    assert end.status == 128 + signum and "Traceback" not in end.err, end.err
    assert "is saved, continue with: mlcl fit" in end.err.splitlines()[-1], end.err
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


def test_a_full_disk_keeps_the_checkpoint_before(mlcl, demo, here):
    """No file may grow to a checkpoint's size, from the second epoch on."""
    flags = sadcl(demo, here, 4)
    limit = lambda process: resource.prlimit(process, resource.RLIMIT_FSIZE, (200_000, 200_000))  # noqa: E731
    end = live(["fit", *flags], here, at("train.0", 1), 0, do=limit)
    assert end.status == 1 and "Traceback" not in end.err, end.err
    said = "could not be written: File too large; the one before it is kept; make room and continue with"
    line = rf"mlcl: runs/victim/version_0/checkpoints/(best|last)\.ckpt {said} --ckpt_path last"
    assert re.fullmatch(line, end.err.splitlines()[-1]), end.err
    assert {file.name for file in Path("runs/victim/version_0/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert record.load("runs/victim/version_0/checkpoints/last.ckpt")["epoch"] == 0
    assert_finished_like_an_undisturbed_run(mlcl, flags, "version_0")


FORK = """
import os, sys
from mlcl.system import signals
with signals.watching():
    if not os.fork():
        for error in (ConnectionResetError("hung up"), EOFError("hung up"), ValueError("a mistake")):
            try:
                raise error
            except Exception:
                sys.excepthook(*sys.exc_info())
        os._exit(0)
    os.wait()
    raise ConnectionResetError("of the first process")
"""


CUT_OFF = """
from mlcl.system import signals
signals.when_ending(lambda: 1 / 0)
signals.when_ending(lambda: print("given back", flush=True))
signals.cut_off(7)
"""


def test_who_is_cut_off_gives_back_what_is_not_its_own():
    """As the pictures that are cached in shared memory."""
    done = subprocess.run([sys.executable, "-c", CUT_OFF], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "given back\n", "")


def test_a_loaders_process_says_nothing_of_our_hanging_up_on_it():
    """As multiprocessing's resource_sharer does, by the hook, from a thread of the loader's process."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert "hung up" not in done.stderr and "ValueError: a mistake" in done.stderr
    assert done.stderr.endswith("ConnectionResetError: of the first process\n")


REMOVER = """
import shutil
from lightning import Callback
class Remover(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            shutil.rmtree(trainer.default_root_dir)
"""


def test_a_run_whose_folder_was_removed_is_a_run_again(mlcl, demo, tmp_path):
    Path("own_remover.py").write_text(REMOVER)
    flags = [*demo, "--name", "gone", "--model.schedule", "Constant", "--trainer.callbacks+", "own_remover.Remover"]
    done = mlcl("fit", *flags, "--trainer.max_epochs", "2")
    assert done.status == 0 and "runs/gone/version_0 was removed while it is written to; it is made again" in done.err
    run = Path("runs/gone/version_0")
    noted = json.loads((run / "environment.json").read_text())
    assert noted[-1]["data"].keys() == {"train", "val", "test"} and (run / "metrics.json").is_file()
    rest = mlcl("fit", *flags, "--trainer.max_epochs", "3", "--ckpt_path", "last", "--import", "own_remover")
    assert rest.status == 0 and not Path("runs/gone/version_1").exists(), rest.err
