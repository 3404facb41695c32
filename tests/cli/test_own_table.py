"""A training on a table of one's own, and later tests of it."""

import csv
import json
from pathlib import Path

import pytest
from support.trees import write_table

FLAGS = [
    *("--data", "CSVDataset", "--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"),
    *("--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--name", "own"),
]


@pytest.fixture
def run(mlcl, tmp_path):
    """A finished run, of whose class finding nothing is known to be absent, and what was said."""
    rows = [f"{n}.png,{n % 2},{'1' if n % 3 else ''},{'test' if n > 7 else 'train'}" for n in range(12)]
    root = write_table(tmp_path / "data", ["image,cat,finding,split", *rows])
    outcome = mlcl("fit", *FLAGS, "--data.root", root)
    assert outcome.status == 0, outcome.err
    return root, Path("runs/own/version_0"), outcome


def test_a_class_without_known_absences_enters_no_mean_and_is_named(run):
    _, folder, outcome = run
    assert "the network learns to predict it always" in outcome.err
    assert "nothing known to be absent, so no AP: finding" in outcome.out
    summary = json.loads((folder / "metrics.json").read_text())
    assert summary["classes_without_absences"] == ["finding"] and summary["classes_without_positives"] == []
    with (folder / "per_class.csv").open() as file:
        cat, finding = csv.DictReader(file)
    assert finding["AP"] == "" and float(cat["AP"]) == summary["metrics"]["mAP"]


@pytest.mark.slow
def test_a_new_table_is_tested_without_the_training_table(mlcl, run):
    root, _, _ = run
    write_table(root, ["image,cat,finding", "n.png,1,0", "m.png,0,1", "k.png,0,0"], "new.csv")
    (root / "labels.csv").unlink()
    outcome = mlcl("test", "--ckpt_path", "runs/own", "--data.test_csv", "new.csv")
    assert outcome.status == 0, outcome.err
    tested = Path("runs/own/version_0/test_0")
    assert json.loads((tested / "metrics.json").read_text())["N"] == 3
    heads = [(folder / "per_class.csv").read_text().splitlines()[0] for folder in (tested.parent, tested)]
    assert heads[0] == f"{heads[1]},train_positives", "which labels it was trained on cannot be told here"
    for verb in (["validate", "--ckpt_path", "runs/own", "--data.val_fraction", "0.5"], ["fit", "--ckpt_path", "last"]):
        outcome = mlcl(*verb, "--data.test_csv", "new.csv", "--name", "own")
        assert outcome.status == 1 and "Traceback" not in outcome.err
        assert {"validate": "no val images", "fit": "labels.csv"}[verb[0]] in outcome.err.splitlines()[-1]
