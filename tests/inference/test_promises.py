"""mlcl calibrate --guarantee and --false_alarms, and what test, predict, load and export make of them."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import altered

from mlcl.analysis import conformal
from mlcl.inference import export, load
from mlcl.inference.calibration import calibrate
from mlcl.inference.rebuild import Rebuilt
from mlcl.runs import folders, record

CALIBRATE = ["calibrate", "--target", "recall=0.8", "--num_workers", "0", "--output"]


@pytest.fixture
def held_out(trained) -> list[Path]:
    """The 20 validation images."""
    return Rebuilt(folders.best_checkpoint(trained)).datamodule().splits["val"].paths


@pytest.mark.slow
def test_one_threshold_for_all_images_and_whether_they_are_familiar(mlcl, trained, held_out):
    made = mlcl(*CALIBRATE, "c.ckpt", "--ckpt_path", trained, "--guarantee", "--false_alarms", "0.2")
    assert made.status == 0, made.err
    targets = Rebuilt(Path("c.ckpt")).datamodule().splits["val"].targets
    n = int((np.asarray(targets) == 1).any(1).sum())
    assert (
        f"of an image's labels at most 20 % are missed on average: holds for new images like these {n} with" in made.err
    )
    assert "missed on images not fitted on (5-fold): " in made.err and "one for all classes" in made.out
    stored = record.load("c.ckpt")[record.KEY]
    assert stored["calibration"] == {
        "target": "recall of 0.8", "guarantee": "images", "alpha": 0.2, "n": n, "images": 20,
    }  # fmt: skip
    model = load("c.ckpt", "cpu")
    assert model.thresholds.unique().numel() == 1 and model.guaranteed and not load(trained, "cpu").guaranteed
    # The promise itself, on the images it was chosen by: as many labels missed as it allows, and no more.
    out = model(held_out, batch_size=7)
    predicted = torch.tensor([[name in labels for name in model.classes] for labels in out.labels])
    mean = conformal.missed(predicted, torch.as_tensor(np.asarray(targets)))
    assert 0 < n * mean / (n + 1) + 1 / (n + 1) <= 0.2
    # predict
    common = ["predict", "--ckpt_path", "c.ckpt", "--images", *held_out, "--energy", "--batch_size", "3", "--output"]
    assert mlcl(*common, "p.jsonl").status == 0 and mlcl(*common, "p.csv", "--top", "1").status == 0
    other = mlcl(*common, "q.csv", "--tta", "flip")
    assert other.status == 0 and "warning: what mlcl calibrate promised holds for --tta none only" in other.err
    rows = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    own = sorted(range(20), key=lambda i: str(held_out[i]))
    assert [rows[i]["labels"] for i in range(20)] == [out.labels[i] for i in own]
    logits = (torch.logit(out.scores.double()) * model.temperature).tolist()
    energies = [sum(math.log1p(math.exp(x)) for x in row) for row in logits]
    assert out.energy.dtype == torch.float64 and out.energy.tolist() == pytest.approx(energies, rel=1e-4)
    assert [row["energy"] for row in rows] == pytest.approx([float(out.energy[i]) for i in own], abs=2e-5)
    assert sum(not row["familiar"] for row in rows) == 3  # the fourth of 20 is floor(21 * 0.2)
    assert {row["familiar"] for row in rows if row["energy"] < model.familiar_from - 1e-5} == {False}
    with Path("p.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["path", "labels", "energy", "familiar", "class_1", "score_1"]
    told = [{"yes": True, "no": False}[row["familiar"]] for row in table]
    assert told == [row["familiar"] for row in rows] and float(table[0]["energy"]) == rows[0]["energy"]
    # test
    assert mlcl("test", "--ckpt_path", "c.ckpt", "--trainer.accelerator", "cpu").status == 0
    scores = np.load(next(Path("runs").rglob("scores.npz")))
    assert scores["thresholds"].tolist() == model.thresholds.tolist()
    # calibrated once more: nothing of the first one stays
    again = mlcl("calibrate", "--ckpt_path", "c.ckpt", "--output", "d.ckpt", "--num_workers", "0")
    assert again.status == 0 and "energy" not in record.load("d.ckpt")[record.KEY]
    assert load("d.ckpt", "cpu").familiar_from is None and not load("d.ckpt", "cpu").guaranteed


def test_a_threshold_per_class(trained, tmp_path, capsys):
    """A class of fewer than four positives is always predicted, and named."""
    how = {
        "target": "recall",
        "level": 0.8,
        "guarantee": "classes",
        "accelerator": "cpu",
        "changes": {"num_workers": 0},
    }
    made = calibrate(folders.best_checkpoint(trained), tmp_path / "c.ckpt", **how)
    said, entry = capsys.readouterr().err, record.load(tmp_path / "c.ckpt")[record.KEY]["calibration"]
    model, counts = load(tmp_path / "c.ckpt", "cpu"), entry["n"]
    assert torch.equal(model.thresholds, made.thresholds) and len(counts) == 12
    few = [name for name, n in zip(model.classes, counts, strict=True) if n < 4]
    assert few and f"present in fewer than 4 of them, so always predicted: {', '.join(few)}\n" in said
    assert [name for name, value in zip(model.classes, made.thresholds, strict=True) if value == 0] == few
    assert "each class is missed in at most 20 % of its images" in said and "of all labels together" in said


def test_what_cannot_be_promised(mlcl, trained):
    common = ["calibrate", "--ckpt_path", trained, "--num_workers", "0", "--target", "recall=0.99"]
    outcome = mlcl(*common, "--guarantee")
    assert outcome.status == 1 and "recall=0.99 takes 99 held-out images with a label, here are " in outcome.err
    outcome = mlcl(*common, "--guarantee", "classes")  # which would predict every class of every image
    assert outcome.status == 1 and "takes 99 held-out images of a class, the most frequent here has " in outcome.err
    outcome = mlcl(*common, "--false_alarms", "0.03")
    assert outcome.status == 1 and "--false_alarms 0.03 takes 33 held-out images, here are 20" in outcome.err
    assert outcome.err.count("\n") == 1

    def inflate(content, _):
        content["state_dict"]["network.head.classifier.weight"][:] = 3e38

    altered(trained, Path("huge.ckpt"), inflate)
    outcome = mlcl("calibrate", "--ckpt_path", "huge.ckpt", "--num_workers", "0")
    assert outcome.status == 1 and "huge.ckpt: the network's output for held-out images is not finite" in outcome.err


def test_energies_where_there_is_no_room_for_them(mlcl, trained, demo_root, tmp_path):
    """A class of that name, a file of probabilities, the server's files; a record that holds something else."""
    altered(trained, tmp_path / "odd.ckpt", lambda content, _: content[record.KEY]["classes"].__setitem__(3, "energy"))
    (image, *_) = sorted((demo_root / "val2014").glob("*.jpg"))
    common = ["predict", "--images", image, "--num_workers", "0", "--energy", "--output"]
    outcome = mlcl(*common, "o.csv", "--ckpt_path", "odd.ckpt")
    assert outcome.status == 1 and "'energy' is a class and a column" in outcome.err and not Path("o.csv").exists()
    assert mlcl(*common, "o.jsonl", "--ckpt_path", "odd.ckpt").status == 0
    row = json.loads(Path("o.jsonl").read_text())
    assert row["energy"] > 0 and "energy" in row["scores"] and "familiar" not in row
    altered(trained, tmp_path / "bad.ckpt", lambda content, _: content[record.KEY].update(energy={"threshold": "x"}))
    outcome = mlcl(*common, "o.csv", "--ckpt_path", "bad.ckpt")
    assert outcome.status == 1 and "bad.ckpt holds no usable calibration" in outcome.err


def test_a_file_promises_no_less(trained):
    """Its float32 probabilities, from logits that differ by 1e-4, miss no label that the model predicts."""
    model = load(trained, "cpu")
    logits = torch.linspace(-60, 14, 4001)[:, None].expand(-1, 12)
    thresholds = model.probabilities(logits[[0, 1500, 3000, 3900, 3999], 0].double())
    model.thresholds = torch.cat([thresholds, torch.zeros(1), model.thresholds[6:]])
    assert export.metadata(model)["thresholds"] == model.thresholds.tolist()
    model.guaranteed = True
    lower = np.array(export.metadata(model)["thresholds"])
    decided = model.probabilities(logits.double()) >= model.thresholds
    file = 1 / (1 + torch.exp(-(logits - 1e-4) / model.temperature))
    assert file.dtype == torch.float32 and not (decided & ~(file >= torch.from_numpy(lower))).any()
    assert (decided & ~(file >= model.thresholds)).any()
    more = (file >= torch.from_numpy(lower)) & ~decided
    assert lower[5] == 0 and more[:, :4].sum() <= 4
