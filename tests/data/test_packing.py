"""``mlcl pack``: what is in a pack, and what is there after whatever ends the packing."""

import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import litdata
import numpy as np
import pytest
from PIL import Image
from support.lives import live
from support.object_trees import write_fiftyone, write_lvis, write_open_images
from support.running import tiny_data
from support.trees import picture, write_table

from mlcl.data import datasets
from mlcl.data.base import MultiLabelDataModule
from mlcl.data.groups import together
from mlcl.data.images import read_image
from mlcl.data.packing import pack
from mlcl.data.streamed import Streamed
from mlcl.errors import MlclError

pytestmark = pytest.mark.filterwarnings("ignore:.*DataLoader will create", "ignore:.*use of fork")
TINY = ("COCO2014", "VOC2007", "VOC2012", "NUSWIDE", "VG500", "Demo")
FLAGS = ["--data", "CSVDataset", "--data.num_workers", "0", "--data.root", "data"]


def tiny(kind: str, folder: Path) -> MultiLabelDataModule:
    """A small dataset of a class, on disk in its own layout."""
    settings = {}
    if kind in TINY:
        flags = tiny_data(kind, folder)
        pairs = zip(flags[::2], flags[1::2], strict=True)
        settings = {flag.removeprefix("--data."): int(v) if v.isdigit() else v for flag, v in pairs}
    elif kind == "LVIS":
        settings["root"] = str(write_lvis(folder))
    elif kind == "OpenImages":
        settings["root"] = str(write_open_images(folder))
    elif kind == "COCOJSON":
        settings["root"] = str(write_fiftyone(folder))
    else:
        cells = [
            f"{'sub/' * (i % 2)}{i}é.png,{i % 3 - 1},1,p{i // 2},{'train' if i < 9 else 'test'}" for i in range(12)
        ]
        (folder / "sub").mkdir(parents=True)
        settings |= {"root": str(write_table(folder, ["image,a,b,patient,split", *cells])), "group_column": "patient"}
    return getattr(datasets, kind)(num_workers=0, **settings)


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def read(place: str | Path, **settings) -> Streamed:
    data = Streamed(str(place), num_workers=0, **settings)
    data.read_splits()
    return data


def pixels(data: bytes) -> np.ndarray:
    return read_image("picture", content=bytearray(data)).numpy()


@pytest.mark.parametrize("kind", [*TINY, "LVIS", "OpenImages", "COCOJSON", "CSVDataset"])
def test_every_dataset_is_the_same_from_its_pack(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tiny(kind, tmp_path / "data")
    pack(data, str(tmp_path / "pack"), chunk_bytes=2000)
    packed = read(tmp_path / "pack")
    assert packed.classes == tuple(data.classes) and packed.splits.keys() == data.splits.keys()
    assert (packed.splits.get("val") is packed.splits["test"]) == (data.splits.get("val") is data.splits["test"])
    assert set(data.notes.values()) <= set(packed.notes.values())
    chunks = 0
    for split, samples in data.splits.items():
        other = packed.splits[split]
        assert other.names(packed.root) == samples.names(data.root)
        assert other.targets.dtype == np.int8 and np.array_equal(other.targets, samples.targets)
        assert [bytes(other.paths.read(i)) for i in range(len(other.paths))] == [p.read_bytes() for p in samples.paths]
        assert together(other.paths, other.groups).tolist() == together(samples.paths, samples.groups).tolist()
        chunks += len({*other.paths.chunk})
    assert chunks > len(data.splits)
    manifest = json.loads((tmp_path / "pack" / "mlcl.json").read_text())
    assert manifest["dataset"] == kind and manifest["side"] is None


def test_litdata_reads_each_split(tmp_path):
    data = tiny("CSVDataset", tmp_path / "data")
    pack(data, str(tmp_path / "pack"), chunk_bytes=3000)
    for split in ("train", "test"):
        samples = data.splits[split]
        found = sorted(litdata.StreamingDataset(str(tmp_path / "pack" / split)), key=lambda sample: sample["index"])
        assert [sample["index"] for sample in found] == list(range(len(samples.paths)))
        assert [sample["name"] for sample in found] == samples.names(data.root)
        assert [sample["image"] for sample in found] == [path.read_bytes() for path in samples.paths]
        assert [sample["target"].tolist() for sample in found] == samples.targets.tolist()


def test_any_number_of_workers_writes_the_same_bytes_and_nothing_else(mlcl, many):
    for workers in ("0", "1", "3"):
        assert mlcl("pack", *many, workers, "--data.num_workers", workers).status == 0
    one = content(Path("0"))
    assert one == content(Path("1")) == content(Path("3"))
    names = [f"train/chunk-0-{n}.bin" for n in range(6)] + [f"test/chunk-0-{n}.bin" for n in range(2)]
    more = [f"{split}/{name}" for split in ("train", "test") for name in ("samples.npy", "index.json")]
    assert one.keys() == {"mlcl.json", *names, *more}


def test_copies_and_groups_stay_together(tmp_path):
    root = write_table(
        tmp_path / "data", ["image,a,split", *(f"{i}.jpg,{i % 2},train" for i in range(6)), "t.jpg,1,test"]
    )
    shutil.copy(root / "1.jpg", root / "4.jpg")
    for name in ("2.jpg", "5.jpg"):
        (root / name).write_bytes(b"")  # failures, not copies
    pack(datasets.CSVDataset(root=str(root), num_workers=0), str(tmp_path / "pack"))
    assert read(tmp_path / "pack").pack.parts["train"].rows["group"].tolist() == [0, 1, 2, 3, 1, 5]


def test_what_the_labels_were_doubted_for_is_said_once(mlcl, tmp_path):
    rows = ["image,a,b,split", "0.jpg,1,1,train", "1.jpg,0,1,train", "0.jpg,1,1,test", "2.jpg,0,0,test"]
    write_table(tmp_path / "data", rows)
    assert mlcl("pack", *FLAGS, "--output", "pack").status == 0
    files, packed = (mlcl("check", *flags) for flags in (FLAGS, ["--data", "Streamed", "--data.root", "pack"]))
    assert "1 images are in train and in test; the test then measures memory" in files.out.splitlines()
    assert (
        files.out.replace("give --data.empty", "pack it again with --data.empty").splitlines()[:-3]
        == (packed.out.splitlines()[:-3])
    )
    assert packed.out.count("knows no image without b") == packed.out.count("measures memory\n") - 1 == 1


# --- Smaller pictures


def test_smaller_pictures(tmp_path):
    root = write_table(
        tmp_path / "data", ["image,a", *(f"{name}.jpg,1" for name in ("wide", "high", "turned", "small"))]
    )
    sizes = {"wide": (300, 100), "high": (90, 270), "turned": (300, 100), "small": (200, 60)}
    for seed, (name, size) in enumerate(sizes.items()):
        exif = Image.Exif()
        exif[0x112] = 6 if name == "turned" else 1
        picture(*size, seed=seed).save(root / f"{name}.jpg", exif=exif)
    pack(datasets.CSVDataset(root=str(root), num_workers=0, val_fraction=0.25), str(tmp_path / "pack"), 60, 80)
    data, found = read(tmp_path / "pack"), {}
    for samples in (data.splits["train"], data.splits["val"]):
        for row, name in enumerate(samples.names(data.root)):
            found[name.removesuffix(".jpg")] = bytes(samples.paths.read(row))
    assert found["small"] == (root / "small.jpg").read_bytes()
    assert {name: Image.open(io.BytesIO(data)).size for name, data in found.items()} == {
        "wide": (180, 60), "high": (60, 180), "turned": (60, 180), "small": (200, 60),
    }  # fmt: skip
    for name in ("wide", "high", "turned"):
        plain = Image.fromarray(read_image(root / f"{name}.jpg").permute(1, 2, 0).numpy())
        wanted = np.asarray(plain.resize(Image.open(io.BytesIO(found[name])).size, Image.Resampling.BICUBIC))
        assert np.abs(wanted - pixels(found[name]).transpose(1, 2, 0).astype(int)).mean() < 4
    assert json.loads((tmp_path / "pack" / "mlcl.json").read_text())["quality"] == 80


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])  # torch waits 5 s for it
def test_a_picture_that_cannot_be_read_is_an_error_or_stays_as_it_is(mlcl, many, workers):
    Path("data/3.bmp").write_bytes(b"no picture")
    outcome = mlcl("pack", *FLAGS, "--data.num_workers", workers, "--output", workers, "--side", "20")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == (
        "mlcl: data/3.bmp: not a picture in any known format; mlcl check finds all of these, "
        "--data.on_bad_image skip packs them as they are"
    )
    assert mlcl("pack", *FLAGS, "--output", "pack", "--side", "20", "--data.on_bad_image", "skip").status == 0
    assert read("pack").splits["train"].paths.read(3) == b"no picture"
    assert mlcl("pack", *FLAGS, "--output", "as_it_is").status == 0


def test_a_pack_of_a_pack(tmp_path):
    data = tiny("VOC2007", tmp_path / "data")
    pack(data, str(tmp_path / "a"), chunk_bytes=3000)
    pack(read(tmp_path / "a"), str(tmp_path / "b"), chunk_bytes=9000)
    pack(read(tmp_path / "a"), str(tmp_path / "small"), 16)
    again, small = read(tmp_path / "b"), read(tmp_path / "small")
    for split, samples in data.splits.items():
        for other in (again, small):
            assert other.splits[split].names(other.root) == samples.names(data.root)
            assert np.array_equal(other.splits[split].targets, samples.targets)
        for row, path in enumerate(samples.paths):
            assert again.splits[split].paths.read(row) == path.read_bytes()
            assert min(pixels(small.splits[split].paths.read(row)).shape[1:]) == 16
    one, other = (json.loads((tmp_path / name / "mlcl.json").read_text()) for name in ("a", "small"))
    different = {"side": 16, "quality": 95, "folders": other["folders"]}
    assert other == one | different and one["protocol"].startswith("protocol: ")


# --- What the place may hold


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A command line without its place; in its folder 30 pictures of 240 kB, of which 22 are for the training."""
    monkeypatch.chdir(tmp_path)
    rows = (f"{i}.bmp,{i % 2},{'train' if i < 22 else 'test'}" for i in range(30))
    root = write_table(tmp_path / "data", ["image,a,split", *rows])
    for seed in range(30):
        picture(320, 250, seed).save(root / f"{seed}.bmp")
    return [*FLAGS, "--chunk_mb", "1", "--output"]


def test_a_place_that_is_taken(mlcl, many):
    assert mlcl("pack", *many, "pack").status == 0
    before = content(Path("pack"))
    outcome = mlcl("pack", *many, "pack")
    assert outcome.status == 1 and "pack holds a whole pack already" in outcome.err and outcome.err.count("\n") == 1
    assert content(Path("pack")) == before
    Path("other").mkdir()
    Path("other/file").write_text("mine")
    outcome = mlcl("pack", *FLAGS, "--output", "other")
    assert outcome.status == 1 and "other is not empty; give another place" in outcome.err
    assert content(Path("other")) == {"file": b"mine"}
    os.symlink("file", "other/link")
    outcome = mlcl("pack", *FLAGS, "--output", "other/link")
    assert outcome.status == 2 and outcome.err == "mlcl: --output other/link is no folder\n"
    outcome = mlcl("pack", *FLAGS, "--output", "other/file/below")
    assert outcome.status == 1 and outcome.err.count("\n") == 1 and "Not a directory" in outcome.err, outcome.err


def test_an_unfinished_pack_is_finished_by_the_same_command_alone(mlcl, many):
    many = ["--side", "100", *many]
    assert mlcl("pack", *many, "whole").status == 0
    picture = Path("data/9.bmp").read_bytes()
    Path("data/9.bmp").write_bytes(bytes(len(picture)))
    outcome = mlcl("pack", *many, "pack")
    assert outcome.status == 1 and "9.bmp: not a picture" in outcome.err.splitlines()[-1], outcome.err
    Path("data/9.bmp").write_bytes(picture)
    assert mlcl("check", "--data", "Streamed", "--data.root", "pack").err == (
        "mlcl: pack holds an unfinished pack: the same mlcl pack command finishes it\n"
    )
    for other in (["--side", "9"], ["--chunk_mb", "2"], ["--data.val_fraction", "0.5"]):
        outcome = mlcl("pack", *many, "pack", *other)
        assert outcome.status == 1 and "an unfinished pack of other data or with other options" in outcome.err
    table = Path("data/labels.csv").read_text()
    Path("data/labels.csv").write_text(table.replace("0.bmp,0", "0.bmp,1"))
    assert "an unfinished pack of other data" in mlcl("pack", *many, "pack").err
    Path("data/labels.csv").write_text(table)
    # What a killed process leaves.
    (Path("pack") / "train" / ".samples.77.partial.npy").write_bytes(b"half")
    done = sorted(Path("pack/train").glob("chunk-*.bin"))
    done[0].unlink()
    done[1].write_bytes(b"half")
    outcome = mlcl("pack", *many, "pack")
    assert outcome.status == 1 and f"{done[1]} is missing, or has another size than was written" in outcome.err
    done[1].unlink()
    outcome = mlcl("pack", *many, "pack")
    assert outcome.status == 0 and "chunks are there already" in outcome.err, outcome.err
    assert content(Path("pack")) == content(Path("whole"))


# --- What ends the packing


class Objects:
    """A place in the S3 server, compared as a folder is."""

    def __init__(self, server, prefix: str):
        self.server, self.prefix, self.place = server, prefix, f"{server.place}/{prefix}"

    def content(self) -> dict[str, bytes]:
        client = self.server.client()
        objects = {key: client.get_object(Bucket="pictures", Key=key) for key in self.server.objects(f"{self.prefix}/")}
        return {key.removeprefix(f"{self.prefix}/"): found["Body"].read() for key, found in objects.items()}


class Disk:
    """A folder."""

    def __init__(self, place: Path):
        self.place = str(place)

    def content(self) -> dict[str, bytes]:
        return content(Path(self.place))


@pytest.fixture
def server(s3):
    return s3


def packing(place: str, workers: int = 2) -> None:
    pack(datasets.CSVDataset(root="data", num_workers=workers), place, side=64, chunk_bytes=300_000)


def shot(place: str, seconds: float, group: bool) -> bool:
    """Whether a process that packs was killed after so many seconds, alone or with its workers, before it was done."""
    process = multiprocessing.get_context("fork").Process(target=lambda: (os.setpgrp(), packing(place)))
    process.start()
    process.join(seconds)
    if group:
        with suppress(ProcessLookupError):  # not begun, or done
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def killed(times: int, places) -> list[int]:
    """Pack to one place after another, with so many kills in all; after how many chunks each one fell."""
    chance, fell = random.Random(0), []
    start = time.monotonic()
    packing((undisturbed := next(places)).place)
    longest, whole = time.monotonic() - start, undisturbed.content()
    while len(fell) < times:
        place, again = next(places), True
        while again:
            wait = chance.random() * longest if len(fell) < times else 60
            again = shot(place.place, wait, chance.random() < 0.5)
            found = place.content()
            fell += [sum(name.endswith(".bin") for name in found)] * again
            if "mlcl.json" in found:
                assert {name: found[name] for name in whole} == whole
            else:
                with pytest.raises(MlclError, match=r"holds (an unfinished pack: the same|no pack \(no)"):
                    Streamed(place.place)
        assert place.content() == whole
    return fell


def test_killed(many):
    assert len(killed(3, (Disk(Path(f"{n}")) for n in range(99)))) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", "store"])
def test_killed_twenty_times(many, kind, server):
    fell = killed(20, (Disk(Path(f"{n}")) if kind == "disk" else Objects(server, f"killed{n}") for n in range(99)))
    assert len(fell) >= 20 and len({*fell}) > 3, fell


def when(reached, do) -> threading.Thread:
    """Do something, in a thread, once something is reached."""

    def wait() -> None:
        until = time.monotonic() + 60
        while not reached() and time.monotonic() < until:
            time.sleep(0.001)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# In this process, the signal may come between the opening of a file and its with statement.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("signum", "words"), [("SIGINT", "interrupted"), ("SIGTERM", "stopped by SIGTERM")])
def test_a_signal_ends_it_in_one_line(mlcl, many, signum, words):
    number = getattr(signal, signum)
    before = signal.signal(number, signal.default_int_handler)  # a suite started by nohup ignores them
    command = ["--side", "200", *many]
    try:
        thread = when(lambda: any(Path("pack").glob("train/*.json")), lambda: os.kill(os.getpid(), number))
        outcome = mlcl("pack", *command, "pack")
        thread.join()
    finally:
        signal.signal(number, before)
    assert outcome.status == 128 + number, outcome.err
    assert outcome.err.splitlines()[-1] == f"mlcl: {words}; the same command goes on" and "Traceback" not in outcome.err
    assert mlcl("pack", *command, "pack").status == 0 and mlcl("pack", *command, "other").status == 0
    assert content(Path("pack")) == content(Path("other"))


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_a_signal_to_a_process_with_workers(mlcl, many, signum, group, tmp_path):
    command = ["pack", *many, "pack", "--side", "200", "--data.num_workers", "2"]
    end = live(command, tmp_path, lambda folder, _: any(folder.glob("pack/train/*.json")), signum, group=group)
    assert end.status == 128 + signum and end.err.splitlines()[-1].endswith("; the same command goes on"), end.err
    assert "Traceback" not in end.err and sum(line.startswith("mlcl: ") for line in end.err.splitlines()) == 1
    assert mlcl(*command).status == 0
    assert not [name for name in content(Path("pack")) if "packing" in name or "chunk-0-0.json" in name]


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_full_disk(mlcl, many, workers):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))  # no file may grow to a chunk's size
    try:
        outcome = mlcl("pack", *many, "pack", "--data.num_workers", workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.status == 1 and "Traceback" not in outcome.err
    assert re.fullmatch(r"mlcl: \S+/pack: File too large", outcome.err.splitlines()[-1]), outcome.err
    assert mlcl("pack", *many, "pack").status == 0 and read("pack").splits["train"].paths.chunk.max() == 5


def test_a_picture_that_is_gone(mlcl, many):
    Path("data/3.bmp").unlink()
    outcome = mlcl("pack", *many, "pack", "--data.on_bad_image", "skip")
    assert outcome.status == 1 and outcome.err == "mlcl: data/3.bmp: No such file or directory\n"
    assert mlcl("pack", *many, "pack").err.startswith("mlcl: 1 of 22 train images are missing, the first is data/3.bmp")


# --- An object store


def test_a_store_gets_the_same_pack(mlcl, many, server):
    for place, workers in (("pack", "0"), (f"{server.place}/whole/", "1")):
        assert mlcl("pack", *many, place, "--data.num_workers", workers).status == 0
    assert Objects(server, "whole").content() == content(Path("pack"))
    outcome = mlcl("pack", *many, f"{server.place}/whole")
    assert outcome.status == 1 and f"--output {server.place}/whole holds a whole pack already" in outcome.err


def test_what_a_store_refuses(mlcl, many, server, monkeypatch, tmp_path):
    outcome = mlcl("pack", *FLAGS, "--output", "s3://nobody/there")
    assert outcome.status == 1
    assert outcome.err == "mlcl: s3://nobody/there/packing.json: The specified bucket does not exist\n"
    outcome = mlcl("pack", *FLAGS, "--output", "nosuch://store/place")
    assert outcome.status == 1 and outcome.err.startswith("mlcl: nosuch://store/place: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.slow  # a read that dies: data/test_store.py
def test_a_store_that_dies_in_the_middle(mlcl, many, server, monkeypatch):
    monkeypatch.setenv("MLCL_STORE_PATIENCE", "1")
    place, client = f"{server.place}/dies", server.client()

    def begun() -> bool:
        return "Contents" in client.list_objects_v2(Bucket="pictures", Prefix="dies/train/")

    thread = when(begun, server.kill)
    outcome = mlcl("pack", *many, place, "--side", "200")
    thread.join()
    assert outcome.status == 1 and "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith(f"mlcl: {place}/"), outcome.err
    server.start()
    assert mlcl("pack", *many, place).status == 0
    assert Streamed(place).classes == ("a",)
