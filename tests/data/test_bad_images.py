"""``data.on_bad_image skip``: a picture that cannot be read counts for nothing and is listed; not many may."""

import csv
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.own_classes import STOPPER
from support.running import run_process
from support.trees import picture, write_table

from mlcl.data.bad_images import BadImages, limit, listed, new_list
from mlcl.data.csv_file import CSVDataset
from mlcl.data.images import ImageError
from mlcl.errors import MlclError
from mlcl.heads import SemanticAttention
from mlcl.inference.embeddings import collect
from mlcl.inference.rebuild import Rebuilt
from mlcl.network import Network
from mlcl.runs import record

# What PyTorch says of two workers where there is one core, and of a fork beside other threads.
workers = pytest.mark.filterwarnings("ignore:.*DataLoader will create", "ignore:.*use of fork")
TRAIN, TEST = 24, 8
BAD = {"3.jpg": b"", "7.jpg": b"no picture", "t2.jpg": None}  # None cuts it in half


@pytest.fixture
def root(tmp_path):
    rows = ["image,a,b,split", *(f"{i}.jpg,{i % 2},{int(i % 3 == 0)},train" for i in range(TRAIN))]
    write_table(tmp_path / "data", [*rows, *(f"t{i}.jpg,{i % 2},1,test" for i in range(TEST))])
    for name, content in BAD.items():
        file = tmp_path / "data" / name
        file.write_bytes(file.read_bytes()[:400] if content is None else content)
    return tmp_path / "data"


def data(root, **settings):
    chosen = {
        "image_size": 24,
        "batch_size": 4,
        "num_workers": 0,
        "augment": "csra",
        "on_bad_image": "skip",
        **settings,
    }
    made = CSVDataset(root=str(root), **chosen)
    made.prepare_data()
    made.setup("fit")
    return made


def samples(loader, finish=lambda image, drawn: image):
    found = {}
    for batch in loader:
        batch["image"] = finish(batch["image"], batch.get("drawn"))
        for image, target, index in zip(batch["image"], batch["target"], batch["index"], strict=True):
            found[int(index)] = (image, target)
    return found


@workers
@pytest.mark.parametrize(
    ("cache", "on", "num_workers"),
    [("none", "cpu", 2), ("disk", "cpu", 0), ("ram", "device", 2), ("none", "device", 0)],
)
def test_it_is_grey_and_unknown_and_nothing_else_changes(root, tmp_path, cache, on, num_workers):
    settings = {"num_workers": num_workers, "cache": cache, "cache_dir": str(tmp_path / "cache"), "views": 2}
    settings |= {"augment_on": on}

    def augmented(made):
        loader = made.train_dataloader()
        return samples(loader, made._training.finish) if on == "device" else samples(loader)

    found = augmented(data(root, **settings))
    for name in ("3.jpg", "7.jpg"):  # as they were, of the same seed
        picture(40, 30, int(name[0])).save(root / name)
    whole = augmented(data(root, on_bad_image="raise", **settings))
    assert found.keys() == whole.keys() == set(range(TRAIN))
    for index, (image, target) in found.items():
        if index in (3, 7):
            assert (image == 128).all() and (target == -1).all()
        else:
            assert torch.equal(image, whole[index][0]) and torch.equal(target, whole[index][1])


def test_the_default_stops(root, tmp_path):
    for settings in ({}, {"cache": "disk", "cache_dir": str(tmp_path / "cache")}):
        with pytest.raises(ImageError, match=r"[37]\.jpg: "):
            samples(data(root, on_bad_image="raise", **settings).train_dataloader())


def test_a_cache_made_while_skipping_names_the_picture_when_not(root, tmp_path):
    settings = {"cache": "disk", "cache_dir": str(tmp_path / "cache")}
    samples(data(root, **settings).test_dataloader())
    with pytest.raises(ImageError, match=r"t2\.jpg: "):
        samples(data(root, on_bad_image="raise", **settings).test_dataloader())


def test_what_the_cache_could_not_read_is_read_again(root, tmp_path):
    good, state = (root / "t3.jpg").read_bytes(), (root / "t3.jpg").stat()
    settings = {"cache": "disk", "cache_dir": str(tmp_path / "cache")}
    for content, known in ((bytes(len(good)), False), (good, True)):
        (root / "t3.jpg").write_bytes(content)
        os.utime(root / "t3.jpg", ns=(state.st_atime_ns, state.st_mtime_ns))  # the cache takes it for the same file
        image, target = samples(data(root, **settings).test_dataloader())[3]
        assert (target != -1).any() == known and bool((image != 128).any()) == known


def test_a_list_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MlclError, match=r"file/bad_images\.csv: bad images cannot be listed"):
        BadImages("train", 100, tmp_path / "file" / "bad_images.csv").add(Path("a.jpg"), "empty")


def test_one_that_is_not_there_is_as_bad(root, tmp_path):
    (root / "5.jpg").unlink()
    for settings in ({}, {"cache": "disk", "cache_dir": str(tmp_path / "cache")}):
        found = samples(data(root, **settings).train_dataloader())
        assert sorted(index for index, (_, target) in found.items() if (target == -1).all()) == [3, 5, 7]
    with pytest.raises(MlclError, match="1 of 24 train images are missing"):
        data(root, on_bad_image="raise")


@pytest.mark.parametrize(("count", "allowed"), [(0, 0), (1, 0), (8, 4), (20, 10), (1000, 10), (82_783, 827)])
def test_how_many_there_may_be(count, allowed):
    assert limit(count) == allowed


@workers
def test_too_many_stop_the_run_in_one_line(root, capfd):
    for i in range(12):
        (root / f"{i}.jpg").write_bytes(b"no picture")
    made = data(root, num_workers=2)
    made.bad_list = root / "bad_images.csv"  # as a trainer's folder gives it; without, workers know their own finds
    loader = made.train_dataloader()
    with pytest.raises(MlclError) as error:
        samples(loader)
    loader._iterator._shutdown_workers()
    *_, last = str(error.value).strip().splitlines()  # a worker's error brings its traceback
    assert "of 24 train images cannot be read, more than data.on_bad_image skip allows (10)" in last
    assert "not read, so skipped: " in capfd.readouterr().err


def test_many_that_are_missing_are_told_before_anything_starts(root):
    for i in range(11):
        (root / f"{i}.jpg").unlink()
    with pytest.raises(MlclError, match="11 of 24 train images are missing"):
        data(root)


def test_the_list_is_shared_and_names_each_once(tmp_path, capsys):
    file = tmp_path / "bad_images.csv"
    first, second, other = (BadImages(split, 100, file) for split in ("train", "train", "test"))
    for bad in (first, second, first, other):
        bad.add(Path('a, "b"\n.jpg'), "empty")
    second.add(Path("c.jpg"), "text")
    with file.open(newline="") as rows:
        assert [row[:2] for row in csv.reader(rows)] == [
            ["split", "image"], ["train", 'a, "b"\n.jpg'], ["test", 'a, "b"\n.jpg'], ["train", "c.jpg"],
        ]  # fmt: skip
    assert listed(file, "train") == {'a, "b"\n.jpg', "c.jpg"} and len(listed(file, "test")) == 1
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_the_limit_counts_what_others_found(tmp_path, capsys):
    file = tmp_path / "bad_images.csv"
    ranks = [BadImages("train", 1000, file) for _ in range(2)]
    for i in range(10):
        ranks[i % 2].add(Path(f"{i}.jpg"), "empty")
    with pytest.raises(MlclError, match=r"11 of 1,000 train images cannot be read.*listed in .*bad_images\.csv"):
        ranks[0].add(Path("10.jpg"), "empty")
    assert len(capsys.readouterr().err.splitlines()) == 10


def _found_by(file):
    bad = BadImages("train", 10_000, file)
    for i in range(40):
        bad.add(Path(f"{i}.jpg"), "empty")


@pytest.mark.filterwarnings("ignore:.*fork")
def test_processes_write_whole_lines(tmp_path):
    file = tmp_path / "bad_images.csv"
    processes = [multiprocessing.get_context("fork").Process(target=_found_by, args=(file,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert listed(file, "train") == {f"{i}.jpg" for i in range(40)}
    assert all(line.startswith(("train,", "split,")) and line.count(",") == 2 for line in file.read_text().splitlines())


def test_an_older_list_is_replaced_another_file_is_not(tmp_path):
    file = tmp_path / "bad_images.csv"
    assert new_list(tmp_path) == file
    BadImages("train", 100, file).add(Path("a.jpg"), "empty")
    assert new_list(tmp_path) == file and not file.exists()
    file.write_text("mine")
    with pytest.raises(MlclError, match=r"bad_images\.csv is in the way"):
        new_list(tmp_path)
    assert file.read_text() == "mine"


def table_without(root, bad):
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "good.csv").write_text("\n".join(line for line in lines if line.split(",")[0] not in bad))


def fit_flags(root, csv):
    return [
        *("--data", "CSVDataset", "--data.root", str(root), "--data.csv", csv, "--data.image_size", "32"),
        *("--data.batch_size", "4", "--data.num_workers", "0", "--model.network.backbone", "test_resnet"),
        *("--model.network.pretrained", "false", "--trainer.max_epochs", "2", "--trainer.accelerator", "cpu"),
    ]


def test_a_run_goes_on_says_so_and_measures_what_can_be_read(mlcl, root, tmp_path):
    held_out = np.random.default_rng(0).permutation(TRAIN)[: TRAIN // 4]
    (root / f"{held_out[0]}.jpg").write_bytes(b"no picture, no copy")
    skip = ["--data.on_bad_image", "skip", "--data.cache", "ram", "--data.augment_on", "device"]
    skip += ["--data.val_fraction", "0.25"]
    outcome = mlcl("fit", *fit_flags(root, "labels.csv"), *skip, "--name", "with")
    assert outcome.status == 0, outcome.err
    run = tmp_path / "runs" / "with" / "version_0"
    bad = {str(root / name) for name in (*BAD, f"{held_out[0]}.jpg")}
    assert set(lines(run)) == bad and outcome.err.count("not read, so skipped: ") == len(bad)
    assert listed(run / "bad_images.csv", "test") == {str(root / "t2.jpg")}
    assert str(root / f"{held_out[0]}.jpg") in listed(run / "bad_images.csv", "val")
    assert f"{len(bad)} images could not be read" in outcome.err
    table_without(root, BAD)
    outcome = mlcl("test", "--ckpt_path", str(run), "--data.csv", "good.csv")
    assert outcome.status == 0, outcome.err
    tested = [json.loads((folder / "metrics.json").read_text()) for folder in (run, run / "test_0")]
    assert tested[0]["metrics"] == pytest.approx(tested[1]["metrics"], nan_ok=True, abs=1e-6)
    assert tested[0].pop("skipped_images") == 1
    for key in ("N", "unknown_entries", "images_without_label", "embedding_spread"):
        assert tested[0][key] == pytest.approx(tested[1][key], nan_ok=True), key
    assert tested[0]["N"] == TEST - 1
    with np.load(run / "scores.npz") as scores:
        assert "t2.jpg" not in scores["images"] and len(scores["images"]) == len(scores["logits"]) == TEST - 1
        assert scores["index"].tolist() == [0, 1, 3, 4, 5, 6, 7]
    outcome = mlcl("calibrate", "--ckpt_path", str(run), "--output", "new/c.ckpt")
    assert outcome.status == 0, outcome.err
    assert listed(Path("new/bad_images.csv")) == listed(run / "bad_images.csv", "val")
    bad, count = listed(Path("new/bad_images.csv")), len(Rebuilt(Path("new/c.ckpt")).datamodule().splits["val"].paths)
    assert record.load("new/c.ckpt")[record.KEY]["calibration"]["images"] == count - len(bad) < count


def lines(run):
    with (run / "bad_images.csv").open(newline="") as rows:
        return [row[1] for row in csv.reader(rows)][1:]


@pytest.mark.slow
def test_a_continued_run_counts_what_is_bad_now(mlcl, root, tmp_path):
    """Pictures that were mended since count neither in the list nor towards the limit."""
    Path("own_stop.py").write_text(STOPPER)
    for i in range(10):
        (root / f"{i}.jpg").write_bytes(b"no picture")
    skip = [*fit_flags(root, "labels.csv"), "--data.on_bad_image", "skip", "--name", "on", "--test_after_fit", "false"]
    half = mlcl("fit", *skip, "--trainer.callbacks+", "own_stop.StopAfter", "--trainer.callbacks.epochs", "1")
    run = tmp_path / "runs" / "on" / "version_0"
    assert half.status == 0 and len(lines(run)) == 11, half.err
    for i in range(10):
        picture(40, 30, i).save(root / f"{i}.jpg")
    (root / "20.jpg").write_bytes(b"")
    rest = mlcl("fit", *skip, "--ckpt_path", "last", "--import", "own_stop")
    assert rest.status == 0, rest.err
    assert sorted(lines(run)) == [str(root / "20.jpg"), str(root / "t2.jpg")]
    assert "2 images could not be read" in rest.err


def test_embeddings_are_collected_of_what_can_be_read(root):
    network = Network("test_resnet", SemanticAttention(4), 2)
    found = collect(network, data(root), "test", absent=True)
    assert sorted(set(found.rows.tolist())) == [0, 1, 3, 4, 5, 6, 7]
    with pytest.raises(ImageError, match=r"t2\.jpg"):
        collect(network, data(root, on_bad_image="raise"), "test")
    for i in range(5):
        (root / f"t{i}.jpg").write_bytes(b"")
    with pytest.raises(MlclError, match=r"5 of 8 test images cannot be read, more than data\.on_bad_image skip allows"):
        collect(network, data(root), "test")


def test_a_run_stops_at_a_bad_picture_unless_told_otherwise(mlcl, root):
    outcome = mlcl("fit", *fit_flags(root, "labels.csv"))
    assert outcome.status == 1
    assert outcome.err.strip().splitlines()[-1].startswith(f"mlcl: {root}/")


@pytest.mark.slow
def test_two_processes_share_the_list(root, tmp_path):
    flags = fit_flags(root, "labels.csv")
    flags += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.on_bad_image", "skip", "--name", "ddp"]
    flags += ["--data.cache", "ram", "--data.augment_on", "device"]
    done = run_process("fit", *flags, cwd=tmp_path, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "ddp" / "version_0"
    assert sorted(lines(run)) == sorted(str(root / name) for name in BAD)
    assert "3 images could not be read" in done.stderr
    written = json.loads((run / "metrics.json").read_text())
    assert (written["N"], written["skipped_images"]) == (TEST - 1, 1)


@pytest.mark.slow
def test_too_many_for_two_processes_end_both_in_one_line(root, tmp_path):
    for i in range(14):
        (root / f"{i}.jpg").write_bytes(b"no picture")
    flags = fit_flags(root, "labels.csv")
    flags += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.on_bad_image", "skip", "--name", "ddp"]
    done = run_process("fit", *flags, cwd=tmp_path, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "of 24 train images cannot be read, more than" in done.stderr.strip().splitlines()[-1]
