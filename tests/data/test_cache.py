"""The cache of decoded pictures: the same pixels, written once by whoever comes first, whole or not at all."""

import atexit
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.trees import picture, write_table
from torchvision.transforms.v2 import InterpolationMode

from mlcl.data.augment import AUGMENTATIONS, Augmentation
from mlcl.data.cache import CachedPixels, open_cache
from mlcl.data.csv_file import CSVDataset
from mlcl.data.images import ImageError, read_image
from mlcl.errors import MlclError

SQUARE = Augmentation(20, InterpolationMode.BILINEAR)


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(7):
        picture(30 + i, 25, seed=i).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(7)]


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.filterwarnings("ignore:.*DataLoader will", "ignore:.*fork")
def test_it_holds_the_resized_pictures_and_their_sizes(paths, tmp_path):
    cache = open_cache(paths, SQUARE, "disk", tmp_path / "cache", workers=2)
    for index, path in enumerate(paths):
        pixels, size = cache(index)
        assert torch.equal(pixels, SQUARE(read_image(path)))
        assert size == (25, 30 + index)
    rows = np.load(cache.path, mmap_mode="r")  # anything that knows NumPy reads it
    assert rows["pixels"].shape == (7, 20, 20, 3)


def test_it_is_written_once_and_said_before(paths, tmp_path, capsys):
    first = open_cache(paths, SQUARE, "disk", tmp_path / "cache")
    said = capsys.readouterr().err
    assert "a cache of 7 pictures at 20 x 20 takes 8.46e-06 GB" in said.splitlines()[0]
    written = first.path.stat().st_mtime_ns
    again = open_cache(paths, SQUARE, "disk", tmp_path / "cache")
    assert again.path == first.path and again.path.stat().st_mtime_ns == written
    assert capsys.readouterr().err == ""
    assert files(tmp_path / "cache") == [first.path.name]


def test_all_that_changes_a_pixel_changes_the_name(paths, tmp_path):
    def name(chosen=paths, augmentation=SQUARE):
        return open_cache(chosen, augmentation, "disk", tmp_path / "cache").path.name

    names = {
        name(),
        name(paths[:6]),
        name(paths[::-1]),
        name(augmentation=Augmentation(21, InterpolationMode.BILINEAR)),
        name(augmentation=Augmentation(20, InterpolationMode.BICUBIC)),
    }
    os.utime(paths[3], (1, 1))
    names.add(name())
    picture(64, 64, seed=99).save(paths[5])
    names.add(name())
    assert len(names) == 7
    assert name() in names


def test_the_pictures_go_on_as_they_are_with_any_augmentation(tmp_path):
    """Steps change copies: the mapped file keeps what it holds."""
    write_table(tmp_path, ["image,a", *(f"{i}.jpg,1" for i in range(4))])
    for name in AUGMENTATIONS:
        made = CSVDataset(root=str(tmp_path), image_size=24, augment=name, cache="disk", cache_dir=str(tmp_path / "c"))
        made.read_splits()
        dataset = made.dataset("train")
        before = dataset.pixels.path.read_bytes()
        for epoch in range(4):
            dataset[epoch, 1]
        assert dataset.pixels.path.read_bytes() == before
        assert torch.equal(
            dataset.pixels(1)[0],
            AUGMENTATIONS[name](24, InterpolationMode.BILINEAR).resized(read_image(made.splits["train"].paths[1])),
        )


def images_of(tmp_path, name, **settings):
    made = CSVDataset(root=str(tmp_path), image_size=24, batch_size=3, augment=name, num_workers=0, **settings)
    made.read_splits()
    device = torch.device("cpu")
    batches = [made.transfer_batch_to_device(batch, device, 0) for batch in made.train_dataloader()]
    assert all(set(batch) == {"image", "target", "index"} for batch in batches)
    return torch.cat([batch["image"] for batch in batches]).float()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_neither_cache_nor_device_changes_the_augmentation(tmp_path, name):
    write_table(tmp_path, ["image,a", *(f"{i}.jpg,1" for i in range(6))])
    views = 1 if name == "flip" else 2
    plain = images_of(tmp_path, name, views=views)
    cached = {"cache": "disk", "cache_dir": str(tmp_path / "cache")}
    assert plain.shape[1:-3] == ((views,) if views > 1 else ())
    assert torch.equal(plain, images_of(tmp_path, name, views=views, augment_on="device"))
    from_cache = images_of(tmp_path, name, views=views, **cached)
    assert torch.equal(from_cache, images_of(tmp_path, name, views=views, augment_on="device", **cached))
    if not AUGMENTATIONS[name](24, InterpolationMode.BILINEAR).crops_original:
        assert torch.equal(plain, from_cache)
    else:  # the same crop of a picture that was resized before; another crop would be far away
        apart = (plain - from_cache).abs().flatten(1).mean(1)
        others = (plain - plain.roll(1, 0)).abs().flatten(1).mean(1)
        assert apart.median() < 0.25 * others.median()


def test_validation_and_test_share_a_file_where_they_are_the_same_images(tmp_path):
    write_table(tmp_path, ["image,a,split", "1.jpg,1,train", "2.jpg,0,test"])
    made = CSVDataset(root=str(tmp_path), image_size=24, cache="disk", cache_dir=str(tmp_path / "cache"))
    made.read_splits()
    assert made.dataset("val").pixels.path == made.dataset("test").pixels.path


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "fewer", "others"])
def test_a_damaged_file_is_written_again(paths, tmp_path, damage):
    cache = open_cache(paths, SQUARE, "disk", tmp_path / "cache")
    whole = cache.path.read_bytes()
    if damage in ("fewer", "others"):
        np.save(cache.path, np.array(cache.rows[:3]) if damage == "fewer" else np.arange(7))
    else:
        cache.path.write_bytes({"cut": whole[:-100], "empty": b"", "text": b"hello\n"}[damage])
    again = open_cache(paths, SQUARE, "disk", tmp_path / "cache")
    assert again.path.read_bytes() == whole


def test_a_terminal_gets_a_bar(paths, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert open_cache(paths, SQUARE, "disk", tmp_path / "cache")(6)[1] == (25, 36)
    assert "caching" in capsys.readouterr().err


def test_a_spawned_process_maps_the_file_instead_of_being_sent_it(paths, tmp_path):
    cache = open_cache(paths, SQUARE, "disk", tmp_path / "cache")
    sent = pickle.dumps(cache)
    assert len(sent) < 500
    received = pickle.loads(sent)
    assert isinstance(received, CachedPixels) and torch.equal(received(3)[0], cache(3)[0])


def test_a_picture_that_cannot_be_read_is_named_and_nothing_stays(paths, tmp_path):
    paths[4].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"4\.png: not a picture"):
        open_cache(paths, SQUARE, "disk", tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_more_than_the_disk_has_is_refused_before_it_starts(paths, tmp_path):
    with pytest.raises(MlclError) as error:
        open_cache(paths[:1] * 2000, Augmentation(20_000, InterpolationMode.BILINEAR), "disk", tmp_path / "cache")
    text = str(error.value)
    assert "takes 2.4e+03 GB" in text and "free" in text and "--data.cache_dir" in text and "\n" not in text
    assert files(tmp_path / "cache") == []


def test_a_picture_may_be_written_to_and_comes_back_whole(tmp_path):
    """With and without steps after it, as without a cache."""
    write_table(tmp_path, ["image,a", "1.jpg,1", "2.jpg,0"])
    made = CSVDataset(root=str(tmp_path), image_size=24, augment="none", cache="disk", cache_dir=str(tmp_path / "c"))
    made.read_splits()
    dataset = made.dataset("train")
    before = dataset[0]["image"].clone()
    dataset[0]["image"].zero_()
    assert before.any() and torch.equal(dataset[0]["image"], before)


def test_a_finished_cache_needs_no_lock(paths, tmp_path):
    """As in a folder that may only be read: there a lock cannot be taken."""
    path = open_cache(paths, SQUARE, "disk", tmp_path / "cache").path
    lock = path.with_suffix(".lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # root may write anywhere; this, nobody can lock
    assert open_cache(paths, SQUARE, "disk", tmp_path / "cache").path == path


def test_a_picture_that_went_away_is_not_the_caches_fault(paths, tmp_path):
    paths[2].unlink()
    with pytest.raises(ImageError, match=r"2\.png: No such file") as error:
        open_cache(paths, SQUARE, "disk", tmp_path / "cache")
    assert "cache_dir" not in str(error.value)


def test_a_folder_that_cannot_be_is_one_line(paths, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MlclError) as error:
        open_cache(paths, SQUARE, "disk", tmp_path / "file" / "cache")
    assert "--data.cache_dir" in str(error.value) and "\n" not in str(error.value)


def opened(paths, folder, side, answer):
    cache = open_cache(paths, Augmentation(side, InterpolationMode.BILINEAR), "disk", folder)
    answer.put((cache.path.name, cache.path.stat().st_ino, int(cache(len(paths) - 1)[0].sum())))


@pytest.fixture
def forked():
    """Start :func:`opened` in so many processes; returns them and the queue of their answers."""
    started = []

    def start(count, *arguments):
        context = multiprocessing.get_context("fork")
        answer = context.SimpleQueue()
        started.extend(context.Process(target=opened, args=(*arguments, answer)) for _ in range(count))
        for process in started:
            process.start()
        return started, answer

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.filterwarnings("ignore:.*fork")
def test_of_processes_that_start_together_one_writes_and_all_read_the_same(paths, tmp_path, forked, capfd):
    processes, answer = forked(3, paths * 20, tmp_path / "cache", 20)
    answers = {answer.get() for _ in processes}
    assert len(answers) == 1
    assert capfd.readouterr().err.count("takes") == 1


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_killed_process_leaves_nothing_that_counts(paths, tmp_path, forked):
    cache = tmp_path / "cache"
    (process,), _ = forked(1, paths * 30, cache, 400)
    while not any(path.stat().st_size > 1e5 for path in cache.glob(".*.partial.npy")):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert [name.endswith(".partial.npy") for name in files(cache)] == [True]
    again = open_cache(paths * 30, Augmentation(400, InterpolationMode.BILINEAR), "disk", cache)
    assert len(again.rows) == 210 and files(cache) == [again.path.name]


def test_shared_memory_is_given_back_when_the_process_ends(paths, monkeypatch):
    at_exit = []
    monkeypatch.setattr(atexit, "register", lambda function, **given: at_exit.append(partial(function, **given)))
    cache = open_cache(paths, SQUARE, "ram")
    assert cache.path.is_file()
    assert cache.path.parent.parent == (Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir()))
    for function in at_exit * 2:  # another rank may have deleted it already
        function()
    assert not cache.path.exists() and cache(0)[0].any()


@pytest.mark.slow
def test_a_run_is_the_same_run_with_cache_and_device(mlcl, demo, tmp_path):
    """Training, validation and test, through the command line: every weight."""
    demo += ["--trainer.max_epochs", "1"]
    settings = {"plain": [], "fast": ["--data.cache", "disk", "--data.augment_on", "device"]}
    weights = {}
    for name, flags in settings.items():
        outcome = mlcl(
            "fit", *demo, "--data.augment", "mulcon", "--data.cache_dir", str(tmp_path / "c"), *flags, "--name", name
        )
        assert outcome.status == 0, outcome.err
        assert ("a cache of 68 pictures at 48 x 48" in outcome.err) == (name == "fast")
        folder = tmp_path / "runs" / name / "version_0"
        weights[name] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights["plain"][key], weights["fast"][key]) for key in weights["plain"])
    fast = tmp_path / "runs" / "fast" / "version_0" / "checkpoints" / "best.ckpt"
    said = mlcl("test", "--ckpt_path", str(fast))
    assert said.status == 0 and "a cache of" not in said.err  # how a run was made fast is not how it is tested
