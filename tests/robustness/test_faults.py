"""One of three processes is killed, hangs or fails: the others end, nobody is left, the run goes on from its epoch."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from support.lives import as_from_a_terminal
from support.running import REPOSITORY, run_process

from mlcl.callbacks.group import _lost

SLOW = """
import os, pathlib, time
import lightning
from mlcl.data import Demo
from mlcl.errors import MlclError
class Slow(lightning.Callback):
    def on_train_start(self, trainer, module):
        pathlib.Path(f"process_{trainer.global_rank}").write_text(str(os.getpid()))
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        time.sleep(0.1)
        if trainer.global_rank == 2 and pathlib.Path("busy").exists():
            time.sleep(600)
class Early(Demo):
    def read_split(self, split):
        if os.environ.get("LOCAL_RANK") == "2":
            raise MlclError("the disk of this rank is gone")
        return super().read_split(split)
class Short(Demo):
    def dataset(self, split, augmented=True):
        made = super().dataset(split, augmented)
        calls, inner = [], made.pixels
        def pixels(index):
            calls.append(index)
            if split == "train" and os.environ["LOCAL_RANK"] == "2" and len(calls) > 40:
                raise OSError(f"the disk under picture {index} is gone")
            return inner(index)
        made.pixels = pixels
        return made
"""
TIMEOUT = 120  # seconds, of the process group; also those within which all must have started
LAUNCHERS = ("lightning", "by hand")


@dataclass
class Group:
    """Three ranks in a session of their own."""

    started: list[subprocess.Popen]
    folder: Path

    def ranks(self) -> list[int]:
        return [int((self.folder / f"process_{rank}").read_text()) for rank in range(3)]

    def left(self) -> list[int]:
        """Every process of the sessions, loaders' included."""
        found, sessions = [], {process.pid for process in self.started}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) in sessions and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def ended(self, seconds: float) -> float:
        """Wait until nobody is left; the time it took."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            for process in self.started:
                process.poll()
            if not self.left():
                for process in self.started:
                    process.wait()
                return time.monotonic() - start
            time.sleep(0.1)
        raise AssertionError(f"left after {seconds} s: {self.left()}\n{self.errors()}")

    def errors(self) -> str:
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("stderr_*")))


def free_port() -> str:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return str(made.getsockname()[1])


@pytest.fixture
def launch(tmp_path):
    groups = []
    (tmp_path / "own_slow.py").write_text(SLOW)

    def start(
        launcher: str, arguments: list[str], odd: list[str] = (), ranks: tuple[int, ...] = (0, 1, 2), **environment: str
    ) -> Group:
        """``odd``, ``environment``: more flags, and variables, for the last rank only; ``ranks``: those that come."""
        port, group = free_port(), Group([], tmp_path)
        for rank in ranks if launcher == "by hand" else [0]:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "3"}
            own |= {"LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
            own |= {"MASTER_PORT": port}
            command = [sys.executable, "-m", "mlcl", *arguments, *(odd if rank == 2 else ())]
            variables = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", **(own if launcher == "by hand" else {})}
            variables |= environment if rank == 2 else {}
            with (tmp_path / f"stderr_{rank}").open("w") as errors:
                group.started.append(
                    subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL, stderr=errors,
                                     start_new_session=True, preexec_fn=as_from_a_terminal))  # fmt: skip
        groups.append(group)
        return group

    yield start
    for group in groups:
        for process in group.left():
            os.kill(process, signal.SIGKILL)
        for process in group.started:
            process.wait()


def flags(demo: list[str]) -> list[str]:
    ddp = ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.timeout", str(timedelta(seconds=TIMEOUT))]
    slow = ["--trainer.callbacks+", "own_slow.Slow", "--trainer.max_epochs", "30", "--model.schedule", "Constant"]
    size = ["--data.batch_size", "4", "--data.num_workers", "1", "--test_after_fit", "false"]
    return ["fit", *demo, *ddp, "--trainer.devices", "3", *slow, *size]


def wait_for(what, seconds: float, group: Group):
    start = time.monotonic()
    while not what():
        assert time.monotonic() - start < seconds, group.errors()
        assert group.left(), group.errors()
        time.sleep(0.1)


def usable(folder: Path, demo: list[str]) -> None:
    """The last checkpoint loads, and a run goes on from it."""
    last = folder / "runs/demo/version_0/checkpoints/last.ckpt"
    epoch = torch.load(last, weights_only=True)["epoch"]
    alone = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.max_epochs", str(epoch + 2)]
    done = run_process(*flags(demo), *alone, "--ckpt_path", "last", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert torch.load(last, weights_only=True)["epoch"] == epoch + 1


CASES = [("kill", 2), ("kill", 0), ("stop", 2), ("stop", 0)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("how", "victim"), CASES)
def test_a_rank_that_is_killed_or_hangs(launch, demo, tmp_path, how, victim, launcher):
    group = launch(launcher, flags(demo))
    last = tmp_path / "runs/demo/version_0/checkpoints/last.ckpt"
    wait_for(last.is_file, 400, group)
    process = group.ranks()[victim]
    os.kill(process, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    took = group.ended(TIMEOUT + 60)
    errors = group.errors()
    print(f"TOOK {how} rank {victim}, {launcher}: {took:.1f} s; statuses {[p.returncode for p in group.started]}")
    print(errors[-600:])
    for rank, starter in enumerate(group.started):
        assert starter.returncode == (-signal.SIGKILL if starter.pid == process else 1), (rank, starter.returncode)
    what = "has ended" if how == "kill" else "is stopped"
    lines = [line for line in errors.splitlines() if line.startswith("mlcl: ")]
    assert len(lines) == 1 and f"rank {victim} (process {process}) {what}" in lines[0], errors
    usable(tmp_path, demo)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_without_data(launch, demo, tmp_path, launcher):
    group = launch(launcher, [*flags(demo), "--data", "own_slow.Short"])
    took = group.ended(400)
    errors = group.errors()
    print(f"TOOK data, {launcher}: {took:.1f} s from the start")
    lines = [line for line in errors.splitlines() if line.startswith("mlcl: ")]
    assert len(lines) == 1 and lines[0].startswith("mlcl: rank 2 has failed: "), errors
    assert all(starter.returncode == 1 for starter in group.started)
    usable(tmp_path, demo)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("config", "model.optimizer.lr is 0.003 on rank 0 and 0.5 on rank 2"),
        ("code", "its code is '[0-9a-f]+' on rank 0 and '[0-9a-f]+' on rank 2"),
        ("checkpoint", "its checkpoint is 'none' on rank 0 and '[0-9a-f]+' on rank 2"),
        ("another way with bad images", "data.on_bad_image is 'raise' on rank 0 and 'skip' on rank 2"),
        ("data", "train data is '68 images [^']+' on rank 0 and '68 images [^']+' on rank 2"),
    ],
)
def test_a_rank_that_was_started_differently(launch, demo, demo_root, tmp_path, what, line):
    odd, environment = [], {}
    if what == "config":
        odd = ["--model.optimizer.lr", "0.5"]
    elif what == "code":
        shutil.copytree(REPOSITORY / "mlcl", tmp_path / "other" / "mlcl")
        with (tmp_path / "other/mlcl/losses/asymmetric.py").open("a") as file:
            file.write("# another version\n")
        environment = {"PYTHONPATH": str(tmp_path / "other")}
    elif what == "checkpoint":
        alone = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.max_epochs", "1", "--name", "other"]
        done = run_process(*flags(demo), *alone, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        odd = ["--ckpt_path", "runs/other/version_0/checkpoints/last.ckpt"]
    elif what == "another way with bad images":
        odd = ["--data.on_bad_image", "skip"]
    else:
        shutil.copytree(demo_root, tmp_path / "other")
        (table,) = (tmp_path / "other").rglob("instances_train2014.json")
        content = json.loads(table.read_text())
        first = content["annotations"][0]["image_id"]
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != first]
        table.write_text(json.dumps(content))
        odd = ["--data.root", "other"]
    group = launch("by hand", flags(demo), odd, **environment)
    print(f"TOOK refusal of {what}: {group.ended(400):.1f} s from the start")
    lines = [text for text in group.errors().splitlines() if text.startswith("mlcl: ")]
    assert len(lines) == 1 and re.search(line, lines[0]), group.errors()
    assert all(starter.returncode == 1 for starter in group.started)
    assert not list(tmp_path.glob("runs/demo/**/*.ckpt"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rank_that_fails_before_the_others_know_it(launch, demo, tmp_path):
    group = launch("by hand", [*flags(demo), "--data", "own_slow.Early"])
    print(f"TOOK early failure: {group.ended(400):.1f} s from the start")
    lines = [text for text in group.errors().splitlines() if text.startswith("mlcl: ")]
    assert lines == ["mlcl: rank 2 has failed: the disk of this rank is gone"], group.errors()
    assert all(starter.returncode == 1 for starter in group.started)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["busy", "stopped"])
def test_a_signal_counts_while_another_rank_hangs(launch, demo, tmp_path, how):
    """The first process waits in a collective, where Python hears nothing."""
    group = launch("lightning", [*flags(demo), "--data.cache", "ram", "--data.cache_dir", "cached"])
    wait_for((tmp_path / "runs/demo/version_0/checkpoints/last.ckpt").is_file, 400, group)
    if how == "busy":
        (tmp_path / "busy").touch()
    else:
        os.kill(group.ranks()[2], signal.SIGSTOP)
    time.sleep(5)
    group.started[0].send_signal(signal.SIGTERM)
    took = group.ended(60)
    print(f"TOOK SIGTERM with a rank that is {how}: {took:.1f} s")
    lines = [text for text in group.errors().splitlines() if text.startswith("mlcl: ")]
    assert group.started[0].returncode == 143 and len(lines) == 1, group.errors()
    assert lines[0].startswith("mlcl: stopped by SIGTERM") and took < 30
    assert (tmp_path / "cached").is_dir() and not list(tmp_path.glob("cached/*.npy"))
    usable(tmp_path, demo)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_counts_while_the_first_rank_does_not_come(launch, demo, signum):
    """They wait in the system for a port that nobody opens, where Python hears nothing."""
    group = launch("by hand", flags(demo), ranks=(1, 2))
    wait_for(lambda: group.errors().count("Initializing distributed") == 2, 100, group)
    time.sleep(2)
    for process in group.started:
        process.send_signal(signum)
    print(f"TOOK {signum!r} before there is a group: {group.ended(15):.1f} s")
    assert [process.returncode for process in group.started] == [128 + signum] * 2, group.errors()
    assert "Traceback" not in group.errors()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ranks", [(1, 2), (0, 1)])
def test_ranks_that_do_not_meet(launch, demo, ranks):
    group = launch("by hand", [*flags(demo), "--trainer.strategy.timeout", "0:00:20"], ranks=ranks)
    print(f"TOOK to give up on the rank that is not in {ranks}: {group.ended(200):.1f} s from the start")
    errors = group.errors()
    lines = [text for text in errors.splitlines() if text.startswith("mlcl: ")]
    assert len(lines) == 2 and "Traceback" not in errors, errors
    for rank, line in zip(ranks, lines, strict=True):
        assert line.startswith(f"mlcl: rank {rank} of 3 did not meet the others at 127.0.0.1:"), errors
    assert [process.returncode for process in group.started] == [1, 1]


def test_what_is_not_a_lost_connection():
    for error in (
        OSError(110, "Connection timed out", "/nfs/run/metrics.csv"),
        BrokenPipeError(32, "Broken pipe"),
        RuntimeError("DataLoader timed out after 60 seconds"),
        ValueError("socket"),
        RuntimeError("CUDA out of memory"),
    ):
        assert _lost(error) is None
