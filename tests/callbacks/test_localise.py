"""``--localise true`` through the command line: files, numbers, what is refused, and what stays as it was."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.running import REPOSITORY
from support.trees import write_pictures

import mlcl as package
from mlcl.__main__ import main
from mlcl.analysis.localisation import MEASURES, SIZES
from mlcl.data.coverage import covered
from mlcl.data.regions import union
from mlcl.inference.rebuild import Rebuilt
from mlcl.runs.results import read

OWN_HEAD = """
from mlcl.heads import GlobalPool
class Silent(GlobalPool):
    def saliency(self, features, output):
        return None
class Negative(GlobalPool):
    def saliency(self, features, output):
        return super().saliency(features, output) - 1
"""


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory):
    """A test of the shared run, and what it printed."""
    folder = tmp_path_factory.mktemp("localised")
    shutil.copytree(trained, folder / "run")
    flags = ("--localise", "true", "--data.batch_size", "7")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        assert main(["test", "--ckpt_path", "run", *flags]) == 0
    return folder / "run", out.getvalue()


@pytest.fixture
def localised(tested, tmp_path):
    """The same in a folder of its own, to be changed."""
    run, out = tested
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run" / "test_0", out


def test_numbers_of_a_test_are_those_of_the_network_and_the_masks(localised):
    folder, out = localised
    run, found = folder.parent, read(folder).localisation
    data, model = Rebuilt(run / "checkpoints" / "best.ckpt").datamodule(), package.load(run, device="cpu")
    samples = data.splits["test"]
    attention = model(samples.paths).attention.double().numpy()
    regions = data.read_regions("test", samples.paths).read()
    pairs = [(int(i), int(k)) for i, k in np.argwhere(samples.targets == 1)]
    assert list(zip(found.index.tolist(), found.classes.tolist(), strict=True)) == pairs
    for place, (i, k) in enumerate(pairs):
        height, width = next(region.size for region in regions[i])
        mask, largest = union([region for region in regions[i] if region.column == k], height, width)
        cover = covered(mask, attention.shape[2:], (slice(None), slice(None))) / 255
        assert found.energy[place] == pytest.approx((attention[i, k] * cover).sum(), abs=1e-5)
        assert found.chance[place] == pytest.approx(cover.mean(), abs=1e-9)
        assert found.area[place] == largest
    summary = json.loads((folder / "metrics.json").read_text())["localisation"]
    rows = list(csv.DictReader((folder / "localisation.csv").read_text().splitlines()))
    assert summary["positives"] == len(pairs) == sum(int(row["positives"]) for row in rows)
    assert summary["positives_without_region"] == 0
    for name in MEASURES:
        values = [float(row[name]) for row in rows if row[name]]
        assert summary[name] == pytest.approx(np.mean(values))
    assert sum(summary["sizes"][size]["positives"] for size in SIZES) == len(pairs)
    assert "attention on the objects" in out
    for name in MEASURES:
        assert f"{100 * summary[name]:.2f}" in out  # at 80 columns, too


def test_the_metrics_stay_as_without(mlcl, localised):
    folder, _ = localised
    assert mlcl("test", "--ckpt_path", folder.parent, "--data.batch_size", "7").status == 0
    plain = folder.parent / "test_1"
    with_, without = (json.loads((place / "metrics.json").read_text()) for place in (folder, plain))
    assert "localisation" not in without and with_["metrics"] == without["metrics"]
    for name in ("logits", "targets"):
        np.testing.assert_array_equal(np.load(folder / "scores.npz")[name], np.load(plain / "scores.npz")[name])
    assert not (plain / "localisation.npz").exists() and read(plain).localisation is None


def test_validate_measures_the_validation_images(mlcl, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    assert mlcl("validate", "--ckpt_path", "run", "--localise", "true").status == 0
    found = read(tmp_path / "run" / "validate_0")
    assert found.split == "val" and len(found.localisation.index) == (found.targets == 1).sum()


def test_a_head_without_attention_is_measured_by_its_activation_maps(mlcl, demo):
    flags = ("--model.network.head", "GlobalPool", "--trainer.max_epochs", "1", "--localise", "true")
    assert mlcl("fit", *demo, *flags).status == 0
    summary = json.loads(Path("runs/demo/version_0/metrics.json").read_text())["localisation"]
    assert summary["positives"] > 0 and summary["energy"] is not None


def test_a_head_that_cannot_be_measured_ends_with_one_line(mlcl, demo, tmp_path):
    (tmp_path / "own_head.py").write_text(OWN_HEAD)
    for head, word in (("Silent", "does not say where it looks"), ("Negative", "attention must be")):
        flags = ("--model.network.head", f"own_head.{head}", "--trainer.max_epochs", "1", "--localise", "true")
        outcome = mlcl("fit", *demo, *flags)
        assert outcome.status == 1 and "--localise true" in outcome.err and word in outcome.err
        assert "Traceback" not in outcome.err
        assert [*(tmp_path / "runs" / "demo").glob("*/checkpoints/best.ckpt")], "the training is not lost"


def test_data_without_masks_are_refused_before_the_training(mlcl, tmp_path):
    (tmp_path / "labels.csv").write_text("image,cat\na.jpg,1\nb.jpg,0\n")
    write_pictures(tmp_path, ("a.jpg", "b.jpg"))
    flags = ("--data", "CSVDataset", "--data.root", ".", "--data.csv", "labels.csv", "--localise", "true")
    outcome = mlcl("fit", "--config", REPOSITORY / "configs" / "demo.yaml", *flags)
    assert outcome.status == 1 and "--localise true: CSVDataset has no masks or boxes" in outcome.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda columns: columns.pop("energy"), "energy"),
        (lambda columns: columns.update(index=columns["index"] + 10**6), "other images"),
        (lambda columns: columns.update(chance=columns["chance"][:-1]), "length"),
        (lambda columns: columns.update(area=columns["area"].astype(str)), "numbers"),
    ],
)
def test_damaged_files_are_refused(mlcl, localised, change, word):
    folder, _ = localised
    columns = dict(np.load(folder / "localisation.npz"))
    change(columns)
    np.savez(folder / "localisation.npz", **columns)
    outcome = mlcl("report", folder)
    assert outcome.status == 1 and word in outcome.err and "mlcl test again" in outcome.err


@pytest.mark.slow
def test_the_report_and_a_comparison_show_it(mlcl, localised, tmp_path):
    folder, _ = localised
    shutil.copytree(folder.parent, tmp_path / "other")
    weights = dict(np.load(folder / "localisation.npz"))
    weights["energy"] = (weights["energy"] + 1) / 2  # half of the attention left the background
    np.savez(tmp_path / "other" / "test_0" / "localisation.npz", **weights)
    assert mlcl("report", folder).status == 0
    page = (folder / "report.html").read_text()
    assert '<h2 id="looks">' in page and page.count('class="objects"') > 8
    outcome = mlcl("compare", folder, tmp_path / "other" / "test_0", "--resamples", "200")
    assert outcome.status == 0, outcome.err
    assert "does a class look at its objects" in outcome.out
    assert "tested without" not in outcome.out
    (folder / "localisation.npz").unlink()
    outcome = mlcl("compare", folder, tmp_path / "other" / "test_0", "--resamples", "200")
    assert outcome.status == 0 and "tested without --localise true" in " ".join(outcome.out.split())
    assert "does a class look" not in outcome.out


def test_nothing_is_said_of_images_without_a_positive(mlcl, localised):
    folder, _ = localised
    flags = ("--trainer.limit_test_batches", "1", "--data.batch_size", "1")
    targets = np.load(folder / "scores.npz")["targets"]
    outcome = mlcl("test", "--ckpt_path", folder.parent, "--localise", "true", *flags)
    assert outcome.status == 0
    summary = json.loads((folder.parent / "test_1" / "metrics.json").read_text())["localisation"]
    assert summary["positives"] == (targets[0] == 1).sum()


def test_saliency_is_not_negative_for_any_head():
    from mlcl.heads import HEADS

    torch.manual_seed(0)
    for kind in HEADS.values():
        head = kind().build(64, 5).eval()
        features = torch.randn(2, 64, 4, 3)
        with torch.no_grad():
            maps = head.saliency(features, head(features))
        assert maps.shape == (2, 5, 4, 3) and (maps >= 0).all() and (maps.sum((2, 3)) > 0).all()


def test_a_run_that_went_on_keeps_no_earlier_measurement(mlcl, demo, trained, tmp_path):
    """Its scores are new, so the maps of before are another network's."""
    run = tmp_path / "runs" / "demo" / "version_0"
    shutil.copytree(trained, run)
    for name in ("localisation.npz", "localisation.csv"):
        (run / name).write_bytes(b"of the epoch before")
    flags = ("--data.val_fraction", "0.25", "--model.optimizer.lr", "0.01")
    outcome = mlcl("fit", *demo, *flags, "--ckpt_path", "last")
    assert outcome.status == 0, outcome.err
    assert read(run).localisation is None and not (run / "localisation.csv").exists()
