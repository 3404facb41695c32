"""mlcl calibrate: on held-out images only, stored where every verb finds it, the rest of the checkpoint untouched."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.checkpoints import altered
from support.trees import write_table

from mlcl.analysis import thresholds
from mlcl.inference import forward, load
from mlcl.inference.calibration import calibrate
from mlcl.inference.forward import start
from mlcl.inference.rebuild import Rebuilt
from mlcl.runs import folders, record


@pytest.fixture
def best(trained) -> Path:
    return folders.best_checkpoint(trained)


def test_it_is_fitted_on_the_held_out_images_alone(best, tmp_path, monkeypatch):
    """The images that the fit sees are the validation split's, none of which is in train or test."""
    seen = []
    original = thresholds.fit
    monkeypatch.setattr(thresholds, "fit", lambda *arguments: seen.append(arguments) or original(*arguments))
    calibrate(best, tmp_path / "c.ckpt", accelerator="cpu", changes={"batch_size": 7, "num_workers": 0})
    splits = Rebuilt(best).datamodule().splits
    held_out = splits["val"]
    assert not set(held_out.paths) & (set(splits["train"].paths) | set(splits["test"].paths))
    assert len(seen) == 6 and len(seen[0][0]) == len(held_out.paths) == 20  # the one that is stored, and five folds
    out = load(best, "cpu")(held_out.paths)
    torch.testing.assert_close(seen[0][0].sigmoid(), out.scores, atol=1e-6, rtol=1e-5)
    np.testing.assert_array_equal(seen[0][1].numpy(), held_out.targets)


def test_every_verb_uses_it(mlcl, best, demo_root):
    outcome = mlcl("calibrate", "--ckpt_path", best, "--output", "c.ckpt", "--num_workers", "0")
    assert outcome.status == 0, outcome.err
    assert "threshold 0.5" in outcome.out and "calibrated, 5-fold" in outcome.out and "ECE" in outcome.out
    model, before = load("c.ckpt", "cpu"), load(best, "cpu")
    assert model.thresholds.unique().numel() > 1 and model.temperature != 1
    # load: the logits are the same, temperature and thresholds are new
    paths = sorted((demo_root / "val2014").glob("*.jpg"))
    old, new = before(paths), model(paths)
    torch.testing.assert_close(torch.logit(old.scores) / model.temperature, torch.logit(new.scores), atol=1e-4, rtol=0)
    # predict
    assert mlcl("predict", "--ckpt_path", "c.ckpt", "--images", *paths, "--output", "p.jsonl").status == 0
    rows = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert [row["labels"] for row in rows] == new.labels
    # test
    assert mlcl("test", "--ckpt_path", "c.ckpt", "--trainer.accelerator", "cpu").status == 0
    folder = next(Path("runs").rglob("scores.npz")).parent
    scores = np.load(folder / "scores.npz")
    np.testing.assert_allclose(scores["thresholds"], model.thresholds, atol=1e-6)
    assert float(scores["temperature"]) == model.temperature
    predicted = 1 / (1 + np.exp(-scores["logits"].astype(float) / model.temperature)) >= scores["thresholds"]
    truth = scores["targets"] == 1
    precision = (predicted & truth).sum() / predicted.sum()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["metrics"]["OP"] == pytest.approx(precision)
    assert metrics["definitions"]["threshold"] == "one per class, in per_class.csv"
    assert metrics["definitions"]["temperature"] == model.temperature


def test_nothing_else_changes(best, calibrated):
    old, new = record.load(best), record.load(calibrated)
    assert old.keys() == new.keys()
    for name, tensor in old["state_dict"].items():
        assert torch.equal(tensor, new["state_dict"][name])
    before, after = (yaml.safe_load(content[record.KEY]["config"]) for content in (old, new))
    assert {key for key, *_ in record.differences(before, after)} == {"model.threshold", "model.temperature"}
    assert new[record.KEY]["calibration"] == {"target": "f1", "shrink": 10.0, "images": 20}


def test_default_place_another_target_and_the_precision_of_the_run(mlcl, trained, tmp_path, monkeypatch):
    copy = tmp_path / "elsewhere" / "best.ckpt"
    copy.parent.mkdir()
    altered(trained, copy, lambda _, config: config["trainer"].update(precision="bf16-mixed"))
    asked = []
    monkeypatch.setattr(
        forward, "start", lambda kind, **more: asked.append((kind, more)) or start(kind, precision="32-true")
    )
    outcome = mlcl("calibrate", "--ckpt_path", copy, "--target", "recall=0.8", "--num_workers", "0")
    assert outcome.status == 0 and "target recall of 0.8" in outcome.out
    assert "recall of 0.8 or more: " in outcome.err and "classes on images not fitted on" in outcome.err
    assert (copy.parent / "calibrated.ckpt").is_file()
    assert asked == [("auto", {"precision": "bf16-mixed"})]


def test_a_run_without_held_out_images(mlcl, trained, tmp_path):
    altered(trained, tmp_path / "none.ckpt", lambda _, config: config["data"]["init_args"].update(val_fraction=0.0))
    outcome = mlcl("calibrate", "--ckpt_path", "none.ckpt", "--num_workers", "0")
    assert outcome.status == 1 and "none.ckpt" in outcome.err and "--data.val_fraction" in outcome.err
    assert "validation images are test images" in outcome.err and len(outcome.err.strip().splitlines()) == 1


def test_held_out_images_that_are_the_test_too(mlcl, trained, tmp_path):
    write_table(tmp_path / "csv", ["image,cat,dog", *(f"{i}.jpg,{i % 2},{i % 3 % 2}" for i in range(12))])

    def change(content, config):
        content[record.KEY]["classes"] = ["cat", "dog"]
        settings = {"csv": str(tmp_path / "csv" / "labels.csv"), "val_fraction": 0.3, "image_size": 48}
        config["data"] = {"class_path": "mlcl.data.CSVDataset", "init_args": settings}

    altered(trained, tmp_path / "csv.ckpt", change)
    outcome = mlcl("calibrate", "--ckpt_path", "csv.ckpt")
    assert outcome.status == 1 and "held-out images are its test images too" in outcome.err


def test_it_does_not_overwrite_its_own_source(mlcl, best, tmp_path):
    (tmp_path / "calibrated.ckpt").write_bytes(best.read_bytes())
    outcome = mlcl("calibrate", "--ckpt_path", "calibrated.ckpt")
    assert outcome.status == 2 and "is the checkpoint itself; give another file" in outcome.err


def test_data_that_is_gone(mlcl, best, tmp_path):
    outcome = mlcl("calibrate", "--ckpt_path", best, "--data.root", tmp_path / "nowhere")
    assert outcome.status == 1 and "--data.root" in outcome.err


def test_a_class_of_tiny_probabilities_is_decided_alike_everywhere(mlcl, calibrated_low, demo_root, tmp_path):
    """Exported files: in test_export.py."""
    source = calibrated_low.with_name("low.ckpt")
    made = calibrate(source, tmp_path / "again.ckpt", accelerator="cpu", changes={"num_workers": 0})
    model = load(calibrated_low, "cpu")
    assert torch.equal(model.thresholds, made.thresholds) and model.temperature == made.temperature
    assert 0 < model.thresholds[0] < 1e-6
    assert mlcl("test", "--ckpt_path", calibrated_low, "--trainer.accelerator", "cpu").status == 0
    scores = np.load(next(Path("runs").rglob("scores.npz")))
    assert np.array_equal(scores["thresholds"], made.thresholds)
    predicted = made.predicted(torch.from_numpy(scores["logits"]))
    assert 0 < predicted[:, 0].sum() < len(predicted)
    labels = [[model.classes[k] for k in row.nonzero()[:, 0].tolist()] for row in predicted]
    paths = [demo_root / name for name in scores["images"]]
    assert model(paths).labels == labels
    assert mlcl("predict", "--ckpt_path", calibrated_low, "--images", *paths, "--output", "p.csv").status == 0
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    assert [row["labels"].split(";") if row["labels"] else [] for row in rows] == labels
    assert all(float(row[model.classes[0]]) > 0 for row in rows)


def test_a_threshold_out_of_reach_of_a_file_is_not_exported(mlcl, trained):
    for value in (1e-60, 1 - 1e-12):
        altered(trained, Path("far.ckpt"), lambda _, config, value=value: config["model"].update(threshold=value))
        outcome = mlcl("export", "--ckpt_path", "far.ckpt", "--format", "torch_export", "--output", "m.pt2")
        assert outcome.status == 1 and "float32" in outcome.err and not Path("m.pt2").exists()
