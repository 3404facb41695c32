"""mlcl predict in parts: the same file from any number of processes and nodes, and after any number of kills."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.checkpoints import altered
from support.kills import kill_once
from support.nodes import run_nodes, run_ranks, start_nodes
from support.running import run_process

from mlcl.errors import MlclError
from mlcl.inference import forward, parts
from mlcl.inference.parts import Share
from mlcl.inference.rows import Rows
from mlcl.inference.writers import CSVWriter


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{number:05}.jpg")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """26, of which two cannot be read: one in the first half, one in the second."""
    folder = write_images(tmp_path / "images", 24)
    (folder / "00004x.jpg").write_text("no")
    (folder / "00019x.jpg").touch()
    return folder


def options(trained: Path, images: Path, *more: str) -> list[str]:
    common = ["predict", "--ckpt_path", trained, "--images", images, "--num_workers", "0", "--accelerator", "cpu"]
    return [*map(str, common), "--batch_size", "3", *more]


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.part-*"))


def not_read(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("not read")]


def torchrun(*arguments, cwd: Path) -> tuple[list[int], str]:
    statuses, _, err = run_nodes(*arguments, cwd=cwd)
    return statuses, err


def assert_as_one(mlcl, common: list[str], suffix: str, nodes: int, each: int, folder: Path, run):
    one = mlcl(*common, "--output", f"one.{suffix}")
    statuses, err = run(nodes, each, *common, "--output", f"many.{suffix}", cwd=folder)
    assert one.status == 1 and set(statuses) == {1}, err
    assert len(not_read(one.err)) == 2 and not_read(err) == not_read(one.err)
    assert f"many.{suffix}: 24 of 26 images" in err
    assert (folder / f"many.{suffix}").read_bytes() == (folder / f"one.{suffix}").read_bytes()
    assert not left_in(folder)


def test_two_nodes_write_the_file_of_one(mlcl, trained, images, tmp_path):
    assert_as_one(mlcl, options(trained, images, "--energy"), "csv", 2, 1, tmp_path, run_ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "each", "suffix", "more"),
    [(1, 1, "csv", []), (1, 2, "jsonl", ["--top", "3"]), (1, 3, "csv", ["--top", "2", "--energy"]),
     (2, 2, "csv", ["--energy"]), (2, 1, "jsonl", ["--energy"]), (2, 2, "jsonl", ["--num_workers", "2"]),
     (2, 2, "csv", ["--batch_size", "20"])],
)  # fmt: skip
def test_any_number_of_processes_writes_the_same_file(mlcl, trained, images, tmp_path, nodes, each, suffix, more):
    """The last one has two batches for its four processes."""
    assert_as_one(mlcl, options(trained, images, *more), suffix, nodes, each, tmp_path, torchrun)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "interactive"])
def test_under_slurm(mlcl, trained, images, tmp_path, name):
    """Two tasks as srun starts them, of a batch job, or in an interactive one."""
    job = {"JOB_ID": "77", "JOB_NAME": name, "NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "NODEID": "0",
           "NODELIST": "localhost", "STEP_NUM_TASKS": "2", "STEP_NUM_NODES": "1"}  # fmt: skip
    common = options(trained, images)

    def task(number: int):
        here = {f"SLURM_{key}": value for key, value in {**job, "PROCID": str(number), "LOCALID": str(number)}.items()}
        return run_process(*common, "--output", "two.csv", cwd=tmp_path, GLOO_SOCKET_IFNAME="lo", **here)

    with ThreadPoolExecutor() as pool:
        tasks = list(pool.map(task, range(2)))
    assert [done.returncode for done in tasks] == [1, 1], tasks[0].stderr
    mlcl(*common, "--output", "one.csv")
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert len(not_read("".join(done.stderr for done in tasks))) == 2


def killed(mlcl, trained: Path, folder: Path, count: int, kills: int, *more: str) -> None:
    """Predict ``count`` images through so many kills, each of which falls after some more batches are done."""
    chance = random.Random(0)
    common = options(trained, write_images(folder / "images", count), "--batch_size", "1", *more)
    log, steps = folder / "killed.csv.part-1-of-1.log", sorted(chance.sample(range(1, count - 5), kills))

    def batches() -> int:
        return log.read_bytes().count(b"\n") - 2 if log.exists() else 0

    fell = 0
    for step in steps:
        fell += kill_once(lambda step=step: batches() >= step, *common, "--output", folder / "killed.csv")
        assert not (folder / "killed.csv").exists()
    assert fell == kills
    for name in ("killed.csv", "whole.csv"):
        assert mlcl(*common, "--output", folder / name).status == 0
    assert (folder / "killed.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert not left_in(folder)


def test_killed_twice(mlcl, trained, tmp_path):
    killed(mlcl, trained, tmp_path, 40, 2)


@pytest.mark.slow
def test_killed_twenty_times(mlcl, trained, tmp_path):
    killed(mlcl, trained, tmp_path, 400, 20, "--num_workers", "1")


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_process_of_several_is_killed(mlcl, trained, tmp_path, nodes):
    """The others end, the parts stay, and the same command goes on from each."""
    common = options(trained, write_images(tmp_path / "images", 600), "--batch_size", "1")
    started = start_nodes(nodes, 2 // nodes, *common, "--output", "many.csv", cwd=tmp_path)
    logs = [tmp_path / f"many.csv.part-{n}-of-2.log" for n in (1, 2)]
    while not all(log.exists() and log.read_bytes().count(b"\n") > 20 for log in logs):
        assert all(node.poll() is None for node in started)
        time.sleep(0.01)
    os.kill(int(process_with("RANK=1", tmp_path).parent.name), signal.SIGKILL)
    assert all(node.wait(60) != 0 for node in started)
    said = "".join(node.communicate()[1] for node in started)
    assert "Gloo" not in said.split("torch/distributed/elastic")[0]
    assert not (tmp_path / "many.csv").exists() and len(left_in(tmp_path)) == 4
    done = [log.read_bytes().count(b"\n") - 1 for log in logs]
    statuses, _, err = run_nodes(nodes, 2 // nodes, *common, "--output", "many.csv", cwd=tmp_path)
    assert set(statuses) == {0}, err
    assert f"many.csv: goes on after {sum(done) - 1:,} of 600 images" in err
    assert mlcl(*common, "--output", "one.csv").status == 0
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert not left_in(tmp_path)


def process_with(word: str, cwd: Path) -> Path:
    """In /proc, the environment of the process in this folder that has such a word in it."""

    def fits(environ: Path) -> bool:
        try:
            words = environ.read_bytes().decode(errors="replace").split("\0")
            return word in words and os.readlink(environ.with_name("cwd")) == str(cwd)
        except OSError:
            return False

    (found,) = filter(fits, Path("/proc").glob("[0-9]*/environ"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_one_of_our_own_processes_is_killed(trained, tmp_path, first):
    """Either one: the other does not stay behind."""
    common = options(trained, write_images(tmp_path / "images", 20_000), "--batch_size", "1", "--devices", "2")
    command = [sys.executable, "-m", "mlcl", *common, "--output", "o.csv"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"})
    logs = [tmp_path / f"o.csv.part-{n}-of-2.log" for n in (1, 2)]
    while not all(log.exists() and log.read_bytes().count(b"\n") > 5 for log in logs):
        assert process.poll() is None
        time.sleep(0.01)
    child = process_with("LOCAL_RANK=1", tmp_path)
    os.kill(process.pid if first else int(child.parent.name), signal.SIGKILL)
    assert process.wait(60) != 0
    for _ in range(600):
        if not child.exists():
            break
        time.sleep(0.1)
    assert not child.exists() and len(left_in(tmp_path)) == 4 and not (tmp_path / "o.csv").exists()


@pytest.fixture
def half_done(mlcl, trained, tmp_path, monkeypatch):
    """The arguments of a prediction that has stopped after four batches of three images."""
    common = options(trained, write_images(tmp_path / "images", 24), "--output", "o.csv")
    add, seen = Rows.add, []

    def stop(self, lines):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(lines)
        add(self, lines)

    with monkeypatch.context() as patched:
        patched.setattr(Rows, "add", stop)
        outcome = mlcl(*common)
    assert outcome.status == 130 and left_in(tmp_path) == ["o.csv.part-1-of-1", "o.csv.part-1-of-1.log"]
    return common


def whole(mlcl, common: list[str]) -> str:
    """What an undisturbed run of the same says."""
    assert mlcl(*common[:-1], "other.csv").status in (0, 1)
    return Path("other.csv").read_text()


def test_goes_on_after_what_is_whole(mlcl, half_done, tmp_path):
    """A batch is done again if its rows, its note or its images are not as they were."""
    part, log = (tmp_path / name for name in left_in(tmp_path))
    rows, notes, picture = part.read_bytes(), log.read_bytes(), tmp_path / "images" / "00007.jpg"
    undisturbed = whole(mlcl, half_done)
    cut = len("".join(rows.decode().splitlines(keepends=True)[:12]))
    cases = [
        (12, lambda: None),
        (12, lambda: part.write_bytes(rows + b"half a row")),
        (9, lambda: part.write_bytes(rows[:-1])),
        (9, lambda: part.write_bytes(rows[:cut] + rows[cut:].replace(b"0", b"\0"))),
        (9, lambda: log.write_bytes(notes[:-3])),
        (6, lambda: shutil.copy(tmp_path / "images" / "00001.jpg", picture)),
    ]
    for done, harm in cases:
        part.write_bytes(rows)
        log.write_bytes(notes)
        harm()
        outcome = mlcl(*half_done)
        assert outcome.status == 0 and f"o.csv: goes on after {done} of 24 images" in outcome.err, outcome.err
        expected = undisturbed if harm is not cases[-1][1] else whole(mlcl, half_done)  # of another picture
        assert Path("o.csv").read_text() == expected
        assert not left_in(tmp_path)


def test_images_that_could_not_be_read_are_remembered(mlcl, trained, images, tmp_path):
    common = options(trained, images, "--output", tmp_path / "o.csv", "--batch_size", "1")
    log = tmp_path / "o.csv.part-1-of-1.log"
    assert kill_once(lambda: log.exists() and log.read_bytes().count(b"\n") > 9, *common)
    outcome = mlcl(*common)
    assert outcome.status == 1 and "goes on after" in outcome.err and len(not_read(outcome.err)) == 2
    (images / "00004x.jpg").unlink()
    assert len(not_read(mlcl(*common).err)) == 1


@pytest.mark.parametrize("change", ["option", "images", "batch", "checkpoint"])
def test_a_part_of_something_else_is_not_continued(mlcl, trained, half_done, tmp_path, change):
    if change == "option":
        half_done[1:1] = ["--energy"]
    elif change == "images":
        (tmp_path / "images" / "00000a.jpg").write_bytes((tmp_path / "images" / "00001.jpg").read_bytes())
    elif change == "batch":
        half_done[half_done.index("--batch_size") + 1] = "4"
    else:

        def negate(content, _):
            content["state_dict"]["network.head.classifier.bias"] *= -1

        half_done[2] = str(altered(trained, tmp_path / "other.ckpt", negate))
    outcome = mlcl(*half_done)
    assert outcome.status == 0 and "o.csv.part-1-of-1 was made from another checkpoint, other images or" in outcome.err
    assert "goes on" not in outcome.err and Path("o.csv").read_text() == whole(mlcl, half_done)


def test_a_copy_of_the_checkpoint_is_the_same_and_a_part_of_another_number_is_removed(mlcl, half_done, tmp_path):
    run = Path(half_done[2])
    shutil.copytree(run, tmp_path / "copy")
    half_done[2] = str(tmp_path / "copy")
    (tmp_path / "o.csv.part-2-of-7").touch()
    outcome = mlcl(*half_done)
    assert outcome.status == 0 and "goes on after 12 of 24" in outcome.err and not left_in(tmp_path)


def test_two_commands_do_not_write_one_file(mlcl, trained, tmp_path):
    """The second one ends in a line, and does no harm to the first."""
    common = options(
        trained, write_images(tmp_path / "images", 60), "--output", tmp_path / "o.csv", "--batch_size", "1"
    )
    log, second = tmp_path / "o.csv.part-1-of-1.log", []

    def reached() -> bool:
        if log.exists() and log.read_bytes().count(b"\n") > 5 and not second:
            second.append(mlcl(*common))
        return False

    assert not kill_once(reached, *common)
    assert second[0].status == 1 and second[0].err == f"mlcl: {log.with_suffix('')}: another process is writing it\n"
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 61 and not left_in(tmp_path)


def test_a_full_disk(mlcl, trained, tmp_path):
    """One line, and what was written is not lost."""
    common = options(trained, write_images(tmp_path / "images", 60), "--output", "o.csv")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        outcome = mlcl(*common)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert outcome.status == 1 and outcome.err.splitlines()[-1] == (
        "mlcl: o.csv.part-1-of-1 cannot be written: File too large"
    )
    outcome = mlcl(*common)
    assert outcome.status == 0 and "goes on after" in outcome.err and Path("o.csv").read_text() == whole(mlcl, common)


@pytest.mark.parametrize(
    ("second", "words"),
    [(lambda value: value, "o.csv.part-2-of-2 is not there: --output must be in a folder that all nodes share"),
     (lambda value: f"{value}x" if value else value, "process 2 has other images, another checkpoint or other options"),
     (lambda value: value or "no room", "no room")],
)  # fmt: skip
def test_processes_that_cannot_work_together(tmp_path, second, words):
    """The first of two, where the second one answers like this."""
    share = Share(0, 2, lambda value: [value, second(value)])
    with pytest.raises(MlclError, match=words):
        Rows(["a.jpg"], ["cat"], [0.5], CSVWriter(tmp_path / "o.csv", ["cat"]), "job", 1, share)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("images", [0, 1, 5, 26, 27])
def test_stretches_are_whole_batches_and_all_of_the_images(count, images):
    stretches = [Share(rank, count).stretch(images, 5) for rank in range(count)]
    assert [row for stretch in stretches for row in stretch] == [*range(images)]
    assert all(stretch.start % 5 == 0 for stretch in stretches if stretch)
    batches = [-(-len(stretch) // 5) for stretch in stretches]
    assert max(batches) - min(batches) <= 1


def test_which_processes_were_started(monkeypatch):
    """By torchrun, by srun, and not by the script of a SLURM job, which runs once."""
    for name, value in {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    assert parts.launched() is None
    for name, value in {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}.items():
        monkeypatch.setenv(name, value)
    assert parts.launched() == (4, 2, True)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    assert parts.launched() == (2, 3, False)
    with pytest.raises(MlclError, match="--devices 3: 2 processes were started here, which are used; leave it out"):
        forward.start("cpu", "3", together=True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert parts.launched() is None


def voc_files(folder: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in (folder / "results" / "VOC2012" / "Main").iterdir()}
    assert len(files) == 20 and not left_in(folder)
    return files


def test_voc_files_go_on_too(mlcl, voc_model, tmp_path):
    write_images(tmp_path / "images", 40)
    common = options(voc_model, tmp_path / "images", "--writer", "voc2012", "--batch_size", "1", "--output")
    log = tmp_path / "o" / "results.tar.gz.part-1-of-1.log"
    assert kill_once(lambda: log.exists() and log.read_bytes().count(b"\n") > 9, *common, tmp_path / "o")
    outcome = mlcl(*common, tmp_path / "o")
    assert outcome.status == 0 and "results.tar.gz: goes on after" in outcome.err, outcome.err
    assert mlcl(*common, "whole").status == 0
    assert voc_files(tmp_path / "o") == voc_files(tmp_path / "whole")


@pytest.mark.slow
def test_voc_files_of_two_processes(mlcl, voc_model, images, tmp_path):
    """First with two images that cannot be read, which both are told; then without."""
    common = options(voc_model, images, "--writer", "voc2012", "--output")
    statuses, _, err = run_nodes(1, 2, *common, "two", cwd=tmp_path)
    assert statuses == [1] and "mlcl: 2 of the images could not be read, so two/results.tar.gz was not" in err
    assert not left_in(tmp_path / "two")
    for name in ("00004x.jpg", "00019x.jpg"):
        (images / name).unlink()
    statuses, _, err = run_nodes(1, 2, *common, "two", cwd=tmp_path)
    assert statuses == [0] and mlcl(*common, "one").status == 0, err
    assert voc_files(tmp_path / "two") == voc_files(tmp_path / "one")
