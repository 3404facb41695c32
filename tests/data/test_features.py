"""Cached feature maps: those of the network, of every kept view, written once, whole or not at all."""

import csv
import json
import multiprocessing
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.trees import picture
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import InterpolationMode

from mlcl.callbacks import results
from mlcl.callbacks.extraction import key_of
from mlcl.data import row_file
from mlcl.data.augment import AUGMENTATIONS
from mlcl.data.bad_images import BadImages
from mlcl.data.dataset import ImageDataset, Samples
from mlcl.data.features import Extractor, FeatureDataset, open_features, views_to_keep
from mlcl.data.images import ImageError
from mlcl.data.sampler import ClassAwareSampler
from mlcl.errors import MlclError
from mlcl.heads import GlobalPool
from mlcl.network import Network

SIZE, MODE = 32, InterpolationMode.BILINEAR


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Network("test_resnet", GlobalPool(), 3, freeze_stages="all").train()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(7):
        picture(30 + i, 25, seed=i).save(folder / f"{i}.png")
    targets = np.random.default_rng(0).integers(-1, 2, (7, 3)).astype(np.int8)
    return Samples([folder / f"{i}.png" for i in range(7)], targets)


def extractor(network, scale=1.0):
    def compute(pixels):
        with torch.inference_mode():
            return network.features(pixels) * scale

    return Extractor(compute, "test_resnet", lambda: key_of(network, "32-true"))


def rows_of(samples, network, folder, kept=1, dtype="float32", augment="csra", **settings):
    views = views_to_keep(kept, augment, SIZE, MODE)
    return open_features(samples, views, extractor(network), dtype, folder, **settings)


def test_a_cached_map_in_place_of_a_picture_gives_the_same_output(network, samples, tmp_path):
    pixels = torch.stack([ImageDataset(samples, AUGMENTATIONS["none"](SIZE, MODE))[i]["image"] for i in range(7)])
    expected = network(pixels).logits
    for dtype, tolerance in (("float32", 0.0), ("float16", 2e-3)):
        cached = FeatureDataset(samples, rows_of(samples, network, tmp_path, dtype=dtype))
        maps = torch.stack([cached[i]["image"] for i in range(7)])
        assert maps.dtype == getattr(torch, dtype) and len(cached) == 7
        torch.testing.assert_close(network(maps).logits, expected, rtol=tolerance, atol=tolerance)
        assert [cached[i]["target"].tolist() for i in range(7)] == samples.targets.tolist()
        pooled, targets = cached.pooled()
        torch.testing.assert_close(pooled, network.features(pixels).mean((2, 3)), rtol=1e-5, atol=1e-6)
        assert torch.equal(targets, torch.from_numpy(samples.targets))


def test_every_epoch_takes_one_of_the_kept_views(network, samples, tmp_path):
    rows = rows_of(samples, network, tmp_path, kept=4, workers=2, batch_size=3)
    assert len(rows) == 4 * 7
    plain = ImageDataset(samples, AUGMENTATIONS["none"](SIZE, MODE))
    augmented = ImageDataset(samples, AUGMENTATIONS["csra"](SIZE, MODE))
    one = plain[4]["image"]
    known = [one, one.flip(-1), augmented[2, 4]["image"], augmented[3, 4]["image"]]
    maps = [network.features(image[None])[0] for image in known]
    dataset = FeatureDataset(samples, rows, seed=5)
    seen = set()
    for epoch in range(40):
        found = dataset[epoch, 4]["image"]
        close = [view for view in range(4) if torch.allclose(found, maps[view], atol=1e-5)]
        assert len(close) == 1 and torch.equal(found, dataset[epoch, 4]["image"])
        seen |= set(close)
    assert seen == {0, 1, 2, 3}
    pair = FeatureDataset(samples, rows, views=2, seed=5)[1, 4]["image"]
    assert pair.shape == (2, *maps[0].shape) and not torch.equal(pair[0], pair[1])


def test_class_aware_sampling_draws_cached_maps(network, samples, tmp_path):
    """The repetitions of an image are of several kept views."""
    cached = FeatureDataset(samples, rows_of(samples, network, tmp_path, kept=3), seed=1)
    sampler = ClassAwareSampler(cached, 0, samples.targets)
    batches, seen = list(DataLoader(cached, 3, sampler=sampler)), {}
    index = torch.cat([batch["index"] for batch in batches])
    assert len(index) == 7 and torch.equal(index, sampler.order())
    for epoch in range(8):
        sampler.set_epoch(epoch)
        for key in sampler:
            seen.setdefault((epoch, key[1]), []).append(cached[key]["image"])
    several = [maps for maps in seen.values() if len(maps) > 1]
    assert several and any(not torch.equal(maps[0], other) for maps in several for other in maps[1:])


def test_all_that_changes_a_map_changes_the_name(network, samples, tmp_path):
    def count(before, **changes):
        given = {"samples": samples, "network": network, "folder": tmp_path, **changes}
        rows_of(**given)
        return len(list(tmp_path.glob("*.npy"))) - before

    assert count(0) == 1 and count(1) == 0
    assert count(1, dtype="float16") == 1
    assert count(2, kept=2) == 1
    assert count(3, samples=samples.take(range(6))) == 1
    torch.manual_seed(1)
    assert count(4, network=Network("test_resnet", GlobalPool(), 3, freeze_stages="all")) == 1  # other weights
    torch.manual_seed(0)
    other = Network("test_resnet", GlobalPool(), 3, freeze_stages="all", backbone_kwargs={"output_stride": 8})
    own = network.backbone.state_dict()
    other.backbone.load_state_dict(own)
    assert all(torch.equal(own[name], value) for name, value in other.backbone.state_dict().items())
    assert count(5, network=other) == 1  # the same weights, another layout of the layers
    other.mean += 0.1
    assert count(6, network=other) == 1
    assert key_of(network, "32-true") != key_of(network, "bf16-mixed")


def test_the_size_is_said_before_and_more_than_the_disk_has_is_refused(network, samples, tmp_path, capsys, monkeypatch):
    rows_of(samples, network, tmp_path, kept=2)
    assert "test_resnet's features" in (said := capsys.readouterr().err) and "7 pictures in 2 views takes" in said
    rows_of(samples, network, tmp_path, kept=2)
    assert capsys.readouterr().err == ""
    free = row_file.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(row_file.shutil, "disk_usage", lambda path: free)
    with pytest.raises(MlclError, match=r"1e-06 GB are free: give --data\.cache_dir"):
        rows_of(samples, network, tmp_path / "other")


def opened(samples, network, folder, answer, delay=0.0, most=None):
    """In a process of its own: open the features and tell what came of it."""
    if most is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    slow = extractor(network)

    def compute(pixels):
        time.sleep(delay)
        return slow.compute(pixels)

    try:
        views = views_to_keep(2, "none", SIZE, MODE)
        rows = open_features(samples, views, Extractor(compute, slow.name, slow.key), "float32", folder, batch_size=1)
        answer.put((len(rows), float(rows["map"].sum())))
    except MlclError as error:
        answer.put(str(error))


@pytest.fixture
def start(samples, network, tmp_path):
    context, started = multiprocessing.get_context("fork"), []

    def run(*arguments):
        answer = context.SimpleQueue()
        started.append(context.Process(target=opened, args=(samples, network, tmp_path, answer, *arguments)))
        started[-1].start()
        return started[-1], answer

    yield run
    for process in started:
        process.kill()
        process.join()


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.filterwarnings("ignore:.*fork")
def test_of_two_processes_one_computes_and_both_read_the_same(start, tmp_path, capfd):
    (_, first), (_, second) = start(0.01), start(0.01)
    assert first.get() == second.get() and len(files(tmp_path)) == 1
    assert capfd.readouterr().err.count("takes") == 1


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_killed_extraction_leaves_nothing_that_counts(start, samples, network, tmp_path):
    process, _ = start(0.2)
    while not any(path.suffix == ".npy" for path in tmp_path.iterdir()):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert [name.startswith(".") for name in files(tmp_path)] == [True]
    _, answer = start()
    assert answer.get()[0] == 14 and [name.startswith(".") for name in files(tmp_path)] == [False]


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_disk_that_becomes_full_is_one_line_and_leaves_nothing(start, tmp_path):
    _, answer = start(0.0, 3000)
    said = answer.get()
    assert "cannot be written" in said and "\n" not in said and files(tmp_path) == []


def test_a_damaged_file_is_written_again(network, samples, tmp_path):
    before = rows_of(samples, network, tmp_path)["map"].copy()
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-100])
    assert np.array_equal(rows_of(samples, network, tmp_path)["map"], before)


def test_values_beyond_float16_are_refused(network, samples, tmp_path):
    views = views_to_keep(1, "none", SIZE, MODE)
    with pytest.raises(MlclError, match=r"no number in float16; give --data\.cache_dtype float32"):
        open_features(samples, views, extractor(network, 1e9), "float16", tmp_path)
    with pytest.raises(MlclError, match=r"no number in float32$"):
        open_features(samples, views, extractor(network, float("nan")), "float32", tmp_path)


def test_a_picture_that_cannot_be_read_is_an_error_or_unknown(network, samples, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    paths = [*samples.paths[:4], tmp_path / "bad.png"]
    broken = Samples(paths, samples.targets[:5])
    with pytest.raises(ImageError, match=r"bad\.png: not a picture"):
        rows_of(broken, network, tmp_path / "cache")
    rows = rows_of(broken, network, tmp_path / "cache", skip=True)
    bad = BadImages("train", 5, tmp_path / "bad_images.csv")
    dataset = FeatureDataset(broken, rows, bad=bad)
    assert dataset[4]["target"].tolist() == [-1] * 3 and dataset[3]["target"].tolist() == broken.targets[3].tolist()
    assert "not a picture" in Path(tmp_path / "bad_images.csv").read_text()
    pooled, targets = dataset.pooled()
    assert len(pooled) == 4 and targets.tolist() == broken.targets[:4].tolist()
    some, targets = dataset.pooled(torch.tensor([4, 2]))
    assert torch.equal(some, pooled[2:3]) and targets.tolist() == [broken.targets[2].tolist()]


FROZEN = ["--model.network.freeze_stages", "all", "--data.cache", "features"]


def test_a_run_on_cached_features_is_the_run_without(mlcl, demo, tmp_path):
    """Bit by bit, in float32 and with the same pictures: batches of 4, so that no batch of 68, 12 or 25 has one row."""
    flags = [*demo, "--model.network.freeze_stages", "all", "--data.batch_size", "4", "--data.augment", "none"]
    flags += ["--trainer.max_epochs", "1"]
    cached = ["--data.cache", "features", "--data.cache_dtype", "float32"]
    states, scores = {}, {}
    for name, more in {"plain": [], "cached": cached}.items():
        done = mlcl("fit", *flags, "--data.cache_dir", str(tmp_path / "c"), *more, "--name", name)
        assert done.status == 0, done.err
        folder = tmp_path / "runs" / name / "version_0"
        states[name] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        scores[name] = np.load(next(folder.rglob("scores.npz")))["logits"]
    assert all(torch.equal(states["plain"][key], states["cached"][key]) for key in states["plain"])
    assert np.array_equal(scores["plain"], scores["cached"])
    assert len(list((tmp_path / "c").glob("*.npy"))) == 3
    summary = json.loads((next(folder.rglob("metrics.json"))).read_text())
    assert 0 < summary["probe"]["mAP"] < 1 and summary["probe"]["images"] == 68 and "to beat: mAP" in done.out
    check_label_issues(next(folder.rglob("label_issues.csv")), summary)
    tested = mlcl("test", "--ckpt_path", "last", "--name", "cached")
    assert tested.status == 0 and "a cache of" not in tested.err and "overrides" not in tested.err


def check_label_issues(path: Path, summary: dict[str, Any]) -> None:
    """Test images by the network, training images by heads that were fitted without them; labels as they were given."""
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == summary["label_issues"] > 0 and {row["split"] for row in rows} == {"train", "test"}
    assert [float(row["doubt"]) for row in rows] == sorted((float(row["doubt"]) for row in rows), reverse=True)
    stored = np.load(path.with_name("scores.npz"))
    images, classes = stored["images"].tolist(), stored["classes"].tolist()
    for row in rows:
        if row["split"] == "test":
            label = stored["targets"][images.index(row["image"]), classes.index(row["class"])]
            assert row["label"] == ("present" if label else "absent")
        else:
            assert row["image"] not in images and row["class"] in classes


def test_of_a_part_of_the_test_images_the_probe_scores_that_part(mlcl, demo, monkeypatch):
    seen = []
    monkeypatch.setattr(results, "probe", lambda *given, **_: seen.append([len(part) for part in given]))
    flags = [*demo, *FROZEN, "--data.cache_dir", "c", "--trainer.max_epochs", "1"]
    done = mlcl("fit", *flags, "--trainer.limit_test_batches", "1")
    assert done.status == 0, done.err
    summary = json.loads(next(Path("runs").rglob("metrics.json")).read_text())
    assert summary["N"] < 25 and seen == [[68, 68, summary["N"], summary["N"]]] and "probe" not in summary


def test_one_test_image_gives_no_number_to_beat(mlcl, demo):
    """Each class of it has no positive, or no known absence: so neither head has an AP."""
    one = ["--data.batch_size", "1", "--trainer.limit_test_batches", "1", "--trainer.limit_train_batches", "2"]
    done = mlcl("fit", *demo, *FROZEN, *one, "--trainer.max_epochs", "1")
    assert done.status == 0, done.err
    summary = json.loads(Path("runs/demo/version_0/metrics.json").read_text())
    assert summary["metrics"]["mAP"] is None and summary["probe"]["mAP"] is None and "to beat: mAP -" in done.out


def test_what_cannot_be_is_one_line(mlcl, demo):
    trained = mlcl("fit", *demo, "--data.cache", "features")
    assert trained.status == 1 and "--model.network.freeze_stages all" in trained.err
    assert not list(Path("runs").glob("*/*"))
    views = mlcl("fit", *demo, *FROZEN, "--data.views", "2")
    assert views.status == 1 and "--data.views_cached 2" in views.err
    for done in (trained, views):
        assert "Traceback" not in done.err, done.err


CHANGES = """
from lightning import Callback
class Changes(Callback):
    def on_train_start(self, trainer, module):
        next(module.network.backbone.parameters()).data.mul_(2)
"""


def test_a_backbone_that_changes_after_its_features_were_computed_is_refused(mlcl, demo):
    Path("own_change.py").write_text(CHANGES)
    done = mlcl("fit", *demo, *FROZEN, "--trainer.callbacks+", "own_change.Changes")
    assert done.status == 1 and "the backbone was changed" in done.err and "Traceback" not in done.err, done.err
