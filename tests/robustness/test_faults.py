"""One of three processes is killed, hangs or fails: the others end, nobody is left, the run goes on from its epoch."""

import json
import os
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
from support.forked import as_from_a_terminal
from support.running import REPOSITORY, run_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

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
LAUNCHERS = ("lightning", "torchrun")
LAST = "runs/demo/version_0/checkpoints/last.ckpt"


@dataclass
class Group:
    """Three ranks, and who has started them."""

    started: list[subprocess.Popen]
    folder: Path

    def ranks(self) -> list[int]:
        return [int((self.folder / f"process_{rank}").read_text()) for rank in range(3)]

    def left(self) -> list[int]:
        """Every process that is still there, loaders' included: all have inherited a variable."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"TEST_GROUP={self.folder}".encode() in environment:
                found.append(int(entry.name))
        return found

    def ended(self, seconds: float) -> list[int]:
        """Wait until nobody is left; the statuses of those that were started here."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            statuses = [process.poll() for process in self.started]
            if not self.left() and None not in statuses:
                print(f"TOOK {time.monotonic() - start:.1f} s, statuses {statuses}\n{self.errors()[-1000:]}")
                return statuses
            time.sleep(0.1)
        raise AssertionError(f"left after {seconds} s: {self.left()}\n{self.errors()}")

    def errors(self) -> str:
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("stderr_*")))

    def lines(self) -> list[str]:
        return [line for line in self.errors().splitlines() if line.startswith("mlcl: ")]


def free_port() -> str:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return str(made.getsockname()[1])


@pytest.fixture
def launch(tmp_path):
    group = Group([], tmp_path)
    (tmp_path / "own_slow.py").write_text(SLOW)

    def start(
        launcher: str,
        arguments: list[str],
        odd: list[str] | None = None,
        ranks: tuple[int, ...] = (0, 1, 2),
        **environment: str,
    ) -> Group:
        """``odd``, ``environment``: flags and variables for the last rank only; ``ranks``: those that come, by hand."""
        port = free_port()
        for rank in ranks if launcher == "by hand" else [0]:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "3"}
            own |= {"LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
            own |= {"MASTER_PORT": port}
            variables = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "TEST_GROUP": str(tmp_path)}
            variables |= own if launcher == "by hand" else {}
            variables |= environment if rank == 2 else {}
            torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "3", "--master_port", port]
            command = [sys.executable, *(torchrun if launcher == "torchrun" else ()), "-m", "mlcl", *arguments]
            command += odd if odd and rank == 2 else []
            where = {"cwd": tmp_path, "env": variables, "stdout": subprocess.DEVNULL}
            with (tmp_path / f"stderr_{rank}").open("w") as errors:
                group.started.append(subprocess.Popen(command, **where, stderr=errors, preexec_fn=as_from_a_terminal))
        return group

    yield start
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
    epoch = torch.load(folder / LAST, weights_only=True)["epoch"]
    alone = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.max_epochs", str(epoch + 2)]
    done = run_process(*flags(demo), *alone, "--ckpt_path", "last", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert torch.load(folder / LAST, weights_only=True)["epoch"] == epoch + 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("how", "victim"), [("kill", 2), ("kill", 0), ("stop", 2)])
def test_a_rank_that_is_killed_or_hangs(launch, demo, tmp_path, how, victim, launcher):
    group = launch(launcher, flags(demo))
    wait_for((tmp_path / LAST).is_file, 400, group)
    os.kill(group.ranks()[victim], signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    assert group.ended((0 if how == "kill" else TIMEOUT) + 60) != [0]
    usable(tmp_path, demo)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize(("data", "reason"), [("Early", "disk of this rank"), ("Short", "disk under picture")])
def test_a_rank_that_fails_is_named(launch, demo, tmp_path, launcher, data, reason):
    """Before the first step, and in an epoch."""
    group = launch(launcher, [*flags(demo), "--data", f"own_slow.{data}"])
    assert group.ended(400) != [0]
    assert any("rank 2" in line and reason in line for line in group.lines()), group.errors()
    if data == "Short":
        usable(tmp_path, demo)


def test_a_rank_that_was_started_differently(launch, demo, demo_root, tmp_path):
    alone = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.max_epochs", "1", "--name", "other"]
    done = run_process(*flags(demo), *alone, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shutil.copytree(REPOSITORY / "mlcl", tmp_path / "other" / "mlcl")
    with (tmp_path / "other/mlcl/losses/asymmetric.py").open("a") as file:
        file.write("# another version\n")
    shutil.copytree(demo_root, tmp_path / "scenes")
    (table,) = (tmp_path / "scenes").rglob("instances_train2014.json")
    content = json.loads(table.read_text())
    first = content["annotations"][0]["image_id"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != first]
    table.write_text(json.dumps(content))
    odd = ["--ckpt_path", "runs/other/version_0/checkpoints/last.ckpt", "--data.root", "scenes"]
    odd += ["--data.on_bad_image", "skip"]
    group = launch("by hand", flags(demo), odd, PYTHONPATH=str(tmp_path / "other"))
    assert group.ended(400) == [1, 1, 1]
    (line,) = group.lines()
    for what in ("its code is", "on rank 0", "on rank 2", "its checkpoint", "data.on_bad_image", "train data"):
        assert what in line, group.errors()
    assert not list(tmp_path.glob("runs/demo/**/*.ckpt"))


def test_a_signal_while_another_rank_hangs(launch, demo, tmp_path):
    """The first process waits in a collective, where Python acts on no signal until the group's time-out."""
    group = launch("lightning", flags(demo))
    wait_for((tmp_path / LAST).is_file, 400, group)
    os.kill(group.ranks()[2], signal.SIGSTOP)
    time.sleep(5)
    group.started[0].send_signal(signal.SIGTERM)
    assert group.ended(TIMEOUT + 60) == [143]
    assert "stopped by SIGTERM" in group.lines()[-1]
    usable(tmp_path, demo)


def test_ranks_that_do_not_meet(launch, demo):
    group = launch("by hand", [*flags(demo), "--trainer.strategy.timeout", "0:00:20"], ranks=(0, 1))
    assert group.ended(200) == [1, 1]
    assert len(group.lines()) == 1 and "Traceback" not in group.errors()
