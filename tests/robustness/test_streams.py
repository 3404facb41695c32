"""Trainings from a pack, in a folder or a store that fails: as from files, or ended in one line."""

import os
import random
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from support.lives import at, live
from support.packs import streamed

from mlcl import load
from mlcl.errors import MlclError
from mlcl.inference.rebuild import Rebuilt
from mlcl.report.evidence import gather
from mlcl.runs.continuing import how_to_continue
from mlcl.runs.results import read as read_results

MOMENTS = "own_moments.py"
SECRET = "test-secret"


@pytest.fixture
def place(s3, packed, tmp_path) -> str:
    return s3.upload(packed, tmp_path.name)


def one_line(outcome, *parts: str) -> None:
    last = outcome.err.strip().splitlines()[-1]
    assert outcome.status == 1 and last.startswith("mlcl: ") and outcome.err.count("mlcl: ") == 1, outcome.err
    assert "Traceback" not in outcome.err and "MLCL_DEBUG" not in outcome.err, outcome.err
    assert all(part in last for part in parts), outcome.err


def same_training(a: Path, b: Path) -> None:
    for name in ("metrics.csv", "scores.npz", "per_class.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    same_weights(a, b)


def same_weights(a: Path, b: Path) -> None:
    one, other = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (a, b))
    assert one["epoch"] == other["epoch"]
    for part in ("state_dict", "current_model_state"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


@pytest.mark.slow  # from a folder as from files: test_nodes.py; what a store gives: data/test_store.py
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of two processors
@pytest.mark.parametrize("workers", ["0", "1", "2", "3"])
def test_a_training_from_a_store_is_that_from_a_folder(mlcl, packed, place, monkeypatch, workers):
    """Step by step and to the last bit, and nowhere a key; the test after it is that of the store's pictures."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)), raising=False)  # 3 are used
    mixed = ["--data.mixed_chunks", "2"]
    done = [mlcl("fit", *streamed(packed, *mixed), "--name", "folder"),
            mlcl("fit", *streamed(place, *mixed, "--data.num_workers", workers), "--name", "store"),
            mlcl("test", "--ckpt_path", "runs/store/version_0", "--data.root", place,
                 "--data.num_workers", "0")]  # fmt: skip
    assert [outcome.status for outcome in done] == [0] * 3, "\n".join(outcome.err for outcome in done)
    same_training(Path("runs/folder/version_0"), Path("runs/store/version_0"))
    scores = [Path(f"runs/{where}/scores.npz") for where in ("folder/version_0", "store/version_0/test_0")]
    assert scores[0].read_bytes() == scores[1].read_bytes()
    everything = b"".join(file.read_bytes() for file in Path("runs").rglob("*") if file.is_file())
    assert b"s3://pictures" in everything and not any(SECRET in outcome.err + outcome.out for outcome in done)
    assert SECRET.encode() not in everything and b"test-key" not in everything


@pytest.mark.slow  # test_nodes.py trains from files and from a pack, of another dataset
def test_a_training_from_a_pack_is_that_from_files_and_one_from_mixed_chunks_has_another_order(
    mlcl, demo, packed, place
):
    files = mlcl("fit", *demo, "--data.val_fraction", "0.25", "--trainer.log_every_n_steps", "1", "--name", "files")
    done = [files, mlcl("fit", *streamed(packed), "--name", "all"),
            mlcl("fit", *streamed(packed, "--data.mixed_chunks", "2"), "--name", "folder")]  # fmt: skip
    assert [outcome.status for outcome in done] == [0] * 3, "\n".join(outcome.err for outcome in done)
    same_training(Path("runs/files/version_0"), Path("runs/all/version_0"))
    log = [Path(f"runs/{name}/version_0/metrics.csv").read_text() for name in ("files", "folder")]
    assert log[0] != log[1], "another order"
    for verb in ("validate", "test"):
        scores = []
        for number, root in enumerate(((), ("--data.root", place))):
            outcome = mlcl(verb, "--ckpt_path", "runs/folder/version_0", *root)
            assert outcome.status == 0, outcome.err
            scores.append(Path(f"runs/folder/version_0/{verb}_{number}/scores.npz").read_bytes())
        assert scores[0] == scores[1]


def killed_and_continued(mlcl, folder: Path, root: str, kills: int, epochs: int) -> None:
    """A training that is killed again and again, then goes on to the weights of one that was not."""
    from support.lives import MOMENTS as CALLBACK

    (folder / MOMENTS).write_text(CALLBACK)
    flags = [*streamed(root, "--data.mixed_chunks", "2"), "--trainer.max_epochs", str(epochs), "--test_after_fit",
             "false", "--trainer.callbacks+", "own_moments.Moments"]  # fmt: skip
    rng, arguments = random.Random(0), ["fit", *flags, "--name", "victim"]
    for number in range(kills):
        end = live(arguments, folder, at(f"train.{rng.randrange(3)}", int(number % 2 == 0)), signal.SIGKILL)
        assert end.status == -signal.SIGKILL, end.err
        if list(folder.glob("runs/victim/version_0/checkpoints/last.ckpt")):
            arguments = ["fit", *flags, "--name", "victim", "--ckpt_path", "last"]
    done = mlcl(*arguments)
    assert done.status == 0, done.err
    assert mlcl("fit", *flags, "--name", "whole").status == 0
    same_weights(Path("runs/whole/version_0"), Path("runs/victim/version_0"))


@pytest.mark.slow
def test_a_killed_training_from_a_store_goes_on_to_the_same_weights(mlcl, tmp_path, place):
    killed_and_continued(mlcl, tmp_path, place, kills=2, epochs=4)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", ["folder", "store"])
def test_twenty_kills(mlcl, tmp_path, packed, place, kind):
    killed_and_continued(mlcl, tmp_path, place if kind == "store" else str(packed), kills=20, epochs=14)


# Chunks are fetched in each epoch anew: there is room for those that are read.
TIGHT = ["--data.mixed_chunks", "1", "--data.cache_gb", "1.1e-4", "--data.num_workers", "2"]


def faulty(place: str, folder: Path) -> list[str]:
    from support.lives import MOMENTS as CALLBACK

    (folder / MOMENTS).write_text(CALLBACK)
    flags = [*streamed(place, *TIGHT), "--trainer.max_epochs", "3", "--trainer.callbacks+", "own_moments.Moments"]
    return ["fit", *flags, "--name"]


def during(mlcl, arguments: list[str], do):
    """Run a training in this process, and do something when its second epoch begins."""
    Path("moments.txt").unlink(missing_ok=True)

    def wait() -> None:
        while "train.0 1" not in (Path("moments.txt").read_text() if Path("moments.txt").exists() else ""):
            time.sleep(0.005)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    outcome = mlcl(*arguments)
    thread.join()
    return outcome


@pytest.mark.slow  # tests/data/test_store.py has both of the store alone
def test_a_server_that_stops_in_an_epoch_is_waited_for_and_one_that_goes_is_told(
    mlcl, s3, tmp_path, place, monkeypatch
):
    fit = faulty(place, tmp_path)

    def stop() -> None:
        s3.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        s3.process.send_signal(signal.SIGCONT)

    for name, fault in (("stopped", stop), ("undisturbed", lambda: None)):
        outcome = during(mlcl, [*fit, name], fault)
        assert outcome.status == 0, outcome.err
    same_training(Path("runs/stopped/version_0"), Path("runs/undisturbed/version_0"))
    monkeypatch.setenv("MLCL_STORE_PATIENCE", "2")
    outcome = during(mlcl, [*fit, "gone"], s3.kill)
    one_line(outcome, "mlcl: s3://pictures/", "Could not connect")
    assert 1 <= outcome.err.count("; asked again for 2 s") <= 3


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_is_waited_for(mlcl, s3, packed, tmp_path, place):
    def died(process: int) -> None:
        s3.kill()
        time.sleep(2)
        os.killpg(process, signal.SIGSTOP)  # until all is there again, as it is in a store that was away
        s3.start()
        s3.upload(packed, tmp_path.name)
        os.killpg(process, signal.SIGCONT)

    fit = faulty(place, tmp_path)
    end = live([*fit, "died"], tmp_path, at("train.0", 1), 0, do=died)
    assert end.status == 0 and "; asked again for 120 s" in end.err, end.err
    assert mlcl(*fit, "undisturbed").status == 0
    same_training(Path("runs/died/version_0"), Path("runs/undisturbed/version_0"))


def damaged(packed: Path, folder: Path, kind: str) -> Path:
    shutil.copytree(packed, folder)
    one, other = (folder / "train" / f"chunk-0-{n}.bin" for n in (0, 1))
    if kind == "truncated":
        one.write_bytes(one.read_bytes()[:-100])
    else:  # to the byte as long, so that only the pictures tell
        size = one.stat().st_size
        one.write_bytes(other.read_bytes()[:size].ljust(size, b"\0"))
    return folder


@pytest.mark.parametrize(
    ("kind", "where"),
    [("truncated", "folder"), ("swapped", "store"),
     *(pytest.param(*one, marks=pytest.mark.slow) for one in (("truncated", "store"), ("swapped", "folder")))],
)  # fmt: skip
def test_nothing_is_trained_on_a_damaged_chunk(mlcl, s3, packed, tmp_path, kind, where):
    folder = damaged(packed, tmp_path / "bad", kind)
    root, workers = (str(folder), "0") if where == "folder" else (s3.upload(folder, tmp_path.name), "2")
    said = {"truncated": "were packed: pack again"}.get(kind, "is damaged or another one: ")
    outcome = mlcl("fit", *streamed(root, "--data.num_workers", workers, "--data.on_bad_image", "skip"))
    one_line(outcome, f"mlcl: {root}/train/chunk-0-0.bin ", said)
    assert not list(Path().rglob("*.ckpt")) and not list(Path().rglob("bad_images.csv"))


@pytest.fixture
def nobody(monkeypatch):
    """Takes the place of the store; returns whether anyone has connected."""
    import s3fs

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        s3fs.S3FileSystem.clear_instance_cache()

        def visited() -> bool:
            try:
                listening.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield visited


VERBS = {
    "test": ["test", "--ckpt_path", "runs/a/version_0"],
    "validate": ["validate", "--ckpt_path", "runs/a/version_0"],
    "fit": ["fit", "--ckpt_path", "last", "--name", "a"],
    "calibrate": ["calibrate", "--ckpt_path", "runs/a/version_0", "--output", "c.ckpt"],
    "export": ["export", "--ckpt_path", "runs/a/version_0", "--format", "torch_export", "--output", "m.pt2"],
    "report": ["report", "runs/a/version_0", "--output", "r.html", "--max_images", "8"],
}


def test_a_checkpoint_chooses_no_store(mlcl, place, request):
    """A verb that needs the data wants its address; so does what a report and an export read. Nobody is asked."""
    assert mlcl("fit", *streamed(place), "--trainer.max_epochs", "1", "--name", "a").status == 0
    visited = request.getfixturevalue("nobody")
    run, said = Path("runs/a/version_0"), f"lies in {place}; give --data.root {place} if that is yours"
    for verb in ("test", "validate", "fit", "calibrate"):
        one_line(mlcl(*VERBS[verb]), said)
    with pytest.raises(MlclError, match=re.escape(said)):
        Rebuilt(run / "checkpoints/best.ckpt").datamodule()
    [note] = gather(read_results(run), {}, [], None, 0, ()).notes
    assert said in note
    load(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert f"mlcl fit --data.root {place} --ckpt_path" in how_to_continue(run, config, [], [])
    assert not visited()


@pytest.mark.slow
def test_every_verb_works_with_the_store_that_it_is_given(mlcl, place, packed, monkeypatch, s3, request):
    """And the others without; nobody is asked before."""
    for name, seed in (("a", "0"), ("b", "1")):
        assert mlcl("fit", *streamed(place), "--seed_everything", seed, "--name", name).status == 0
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    visited = request.getfixturevalue("nobody")
    said = f"lies in {place}; give --data.root {place} if that is yours"
    for verb, arguments in VERBS.items():
        outcome = mlcl(*arguments)
        if verb in ("export", "report"):  # which can do without
            assert outcome.status == 0 and said in outcome.err, outcome.err
        else:
            one_line(outcome, said)
    ensemble = ["ensemble", "runs/a/version_0", "runs/b/version_0", "--output", "both"]
    assert mlcl(*ensemble).status == 0 and mlcl("compare", "runs/a/version_0", "runs/b/version_0").status == 0
    assert mlcl("report", "both", "--output", "both.html").status == 0
    load("runs/a/version_0")
    config = yaml.safe_load(Path("runs/a/version_0/config.yaml").read_text())
    assert f"mlcl fit --data.root {place} --ckpt_path" in how_to_continue(Path("runs/a/version_0"), config, [], [])
    assert not visited()

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for root in (place, str(packed)):
        for verb, arguments in VERBS.items() if root == place else [("test", VERBS["test"])]:
            outcome = mlcl(*arguments, "--data.root", root)
            assert outcome.status == 0, outcome.err
            assert verb != "export" or "checked on 24 images, 16 of them real" in outcome.err
            assert verb != "report" or ("no pictures" not in outcome.err and "image/jpeg" in Path("r.html").read_text())
    tests = sorted(Path("runs/a/version_0").glob("test_*/scores.npz"))
    assert len(tests) == 2 and len({file.read_bytes() for file in (*tests, Path("runs/a/version_0/scores.npz"))}) == 1


@pytest.mark.slow
def test_the_caches_of_pictures_and_features_serve_packs(mlcl, packed, place, tmp_path):
    frozen = ["--model.network.freeze_stages", "all", "--data.augment", "none", "--ema_decay", "null"]
    frozen += ["--data.mixed_chunks", "2", "--trainer.max_epochs", "1"]
    scores = {}
    for cache in ("none", "disk", "features"):
        for root in (str(packed), place)[cache == "none" :]:
            keep = ["--data.cache", cache, "--data.cache_dir", str(tmp_path / cache)]
            outcome = mlcl("fit", *streamed(root, *frozen, *keep), "--name", f"{cache}_{root == place}")
            assert outcome.status == 0, outcome.err
            assert ("a cache of " in outcome.err) == (cache != "none" and root != place), "written once, for both"
            scores[root, cache] = Path(f"runs/{cache}_{root == place}/version_0/scores.npz").read_bytes()
    assert len({kept for (_, cache), kept in scores.items() if cache != "features"}) == 1
    assert scores[str(packed), "features"] == scores[place, "features"]
    small = ["--data.cache", "disk", "--data.cache_dir", str(tmp_path / "small"), "--data.cache_gb", "1e-4"]
    one_line(mlcl("fit", *streamed(place, *small)), "data.cache_gb 0.0001 is too small: 6 chunks are needed at once")
    one_line(mlcl("fit", *streamed(packed), "--localise", "true"), "Streamed has no masks or boxes")
