"""``data.on_bad_image skip``: a picture that cannot be read counts for nothing and is listed; not many may."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_process
from gloo import run_group
from trees import picture, write_table

from mlcl.data.bad_images import BadImages, limit, listed
from mlcl.data.csv_file import CSVDataset
from mlcl.data.images import ImageError
from mlcl.errors import MlclError

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


def samples(loader):
    found = {}
    for batch in loader:
        for image, target, index in zip(batch["image"], batch["target"], batch["index"], strict=True):
            found[int(index)] = (image, target)
    return found


@workers
@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_it_is_grey_and_unknown_and_nothing_else_changes(root, tmp_path, num_workers, cache):
    settings = {"num_workers": num_workers, "cache": cache, "cache_dir": str(tmp_path / "cache"), "views": 2}
    found = samples(data(root, **settings).train_dataloader())
    for name in ("3.jpg", "7.jpg"):  # as they were, of the same seed
        picture(40, 30, int(name[0])).save(root / name)
    whole = samples(data(root, on_bad_image="raise", **settings).train_dataloader())
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
@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_stop_the_run_in_one_line(root, num_workers, capfd):
    for i in range(12):
        (root / f"{i}.jpg").write_bytes(b"no picture")
    made = data(root, num_workers=num_workers)
    made._bad_list = root / "bad_images.csv"  # as a trainer's folder gives it; without, workers know their own finds
    loader = made.train_dataloader()
    with pytest.raises(MlclError) as error:
        samples(loader)
    if num_workers:
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


def _found_by(rank, size, file):
    bad = BadImages("train", 10_000, Path(file))
    for i in range(40):
        bad.add(Path(f"{i}.jpg"), "empty")
    return torch.tensor(0)


def test_processes_write_whole_lines(tmp_path):
    file = tmp_path / "bad_images.csv"
    run_group(3, _found_by, tmp_path / "group", str(file))
    assert listed(file, "train") == {f"{i}.jpg" for i in range(40)}


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
    skip = ["--data.on_bad_image", "skip"]
    outcome = mlcl("fit", *fit_flags(root, "labels.csv"), *skip, "--name", "with")
    assert outcome.status == 0, outcome.err
    run = tmp_path / "runs" / "with" / "version_0"
    assert listed(run / "bad_images.csv", "train") == {str(root / "3.jpg"), str(root / "7.jpg")}
    assert listed(run / "bad_images.csv", "test") == {str(root / "t2.jpg")}
    assert "not read, so skipped: " in outcome.err
    assert "3 images could not be read and count for nothing; they are listed in" in outcome.err
    table_without(root, BAD)
    best = ["--ckpt_path", str(run)]
    tested = [json.loads((run / "metrics.json").read_text())]
    outcome = mlcl("test", *best, "--data.csv", "good.csv")
    assert outcome.status == 0, outcome.err
    tested.append(json.loads((run / "test_0" / "metrics.json").read_text()))
    assert tested[0]["metrics"] == pytest.approx(tested[1]["metrics"], nan_ok=True, abs=1e-6)
    assert (tested[0]["N"], tested[1]["N"]) == (TEST, TEST - 1)
    with np.load(run / "scores.npz") as scores:
        assert (scores["targets"][scores["images"].tolist().index("t2.jpg")] == -1).all()


def test_a_run_stops_at_a_bad_picture_unless_told_otherwise(mlcl, root):
    outcome = mlcl("fit", *fit_flags(root, "labels.csv"))
    assert outcome.status == 1
    assert outcome.err.strip().splitlines()[-1].startswith(f"mlcl: {root}/")


def test_two_processes_share_the_list(root, tmp_path):
    flags = fit_flags(root, "labels.csv")
    flags += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.on_bad_image", "skip", "--name", "ddp"]
    done = run_process("fit", *flags, cwd=tmp_path, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("runs/ddp/version_0/bad_images.csv")
    assert len(listed(file)) == len(BAD)
    assert "3 images could not be read" in done.stderr
