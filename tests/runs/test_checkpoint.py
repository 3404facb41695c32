"""A checkpoint is enough: tested from anywhere it gives the fit's own numbers, and runs no code of others."""

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer
from support.own_classes import LOSS
from support.running import demo_flags

from mlcl.__main__ import main
from mlcl.data import Demo
from mlcl.errors import MlclError
from mlcl.heads import SemanticAttention
from mlcl.metrics import average_precision
from mlcl.module import MultiLabelModule
from mlcl.network import Network
from mlcl.runs import record


@pytest.fixture(scope="module")
def run(demo_root, tmp_path_factory) -> Path:
    """A finished fit, started with a relative data root, with EMA, 16-bit and a loss of the user's own."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "data").symlink_to(demo_root)
    (folder / "own_loss.py").write_text(LOSS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        flags = ["--data.root", "data", "--ema_decay", "0.9", "--trainer.precision", "bf16-mixed"]
        assert main(["fit", *demo_flags(Path("data")), *flags, "--model.embedding_loss", "own_loss.Pull"]) == 0
    del sys.modules["own_loss"]
    return folder / "runs" / "demo" / "version_0"


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def test_the_run_folder_holds_what_a_person_looks_for(run: Path):
    names = {path.name for path in run.iterdir()} - {"test_0", "test_1", "validate_0", "test_2", "test_3"}
    assert names == {
        *("config.yaml", "environment.json", "metrics.csv", "metrics.json", "per_class.csv", "scores.npz"),
        "label_issues.csv",
        "checkpoints",
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    summary = json.loads((run / "metrics.json").read_text())
    assert (summary["split"], summary["N"], summary["num_classes"]) == ("test", 25, 12)
    assert summary["definitions"]["AP"].startswith("not interpolated")
    rows = list(csv.DictReader((run / "per_class.csv").read_text().splitlines()))
    scores = np.load(run / "scores.npz")
    ap = average_precision(torch.from_numpy(scores["logits"]), torch.from_numpy(scores["targets"]))
    assert [row["class"] for row in rows] == scores["classes"].tolist()
    assert [float(row["AP"] or "nan") for row in rows] == pytest.approx(ap.tolist(), nan_ok=True)
    assert summary["metrics"]["mAP"] == pytest.approx(ap.nanmean().item())
    assert scores["logits"].dtype == np.float32 and len(set(scores["images"])) == 25
    assert summary["classes_without_positives"] == [
        name for name, n in zip(scores["classes"], (scores["targets"] == 1).sum(0), strict=True) if not n
    ]
    log = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert sum(bool(row["val/mAP"]) for row in log) == 2
    assert json.loads((run / "environment.json").read_text())[0]["versions"]["torch"] in torch.__version__


def test_it_is_tested_alone_from_another_folder(run: Path, mlcl):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.is_file()}
    outcome = mlcl("test", "--ckpt_path", run / "checkpoints" / "best.ckpt")
    assert outcome.status == 0, outcome.err
    assert "Warning" not in outcome.err and "override" not in outcome.err
    assert metrics_of(run / "test_0") == metrics_of(run)
    a, b = (np.load(folder / "scores.npz") for folder in (run, run / "test_0"))
    assert np.array_equal(a["logits"], b["logits"])
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert not Path("runs").exists()


def test_the_best_validation_is_found_again(run: Path, mlcl):
    """Validated == saved: the averaged weights, not the raw ones."""
    outcome = mlcl("validate", "--ckpt_path", run / "checkpoints" / "best.ckpt")
    assert outcome.status == 0, outcome.err
    rows = [row for row in csv.DictReader((run / "metrics.csv").read_text().splitlines()) if row["val/mAP"]]
    assert metrics_of(run / "validate_0")["mAP"] == pytest.approx(max(float(row["val/mAP"]) for row in rows), abs=1e-6)


def test_the_command_line_wins_and_says_so(run: Path, mlcl):
    outcome = mlcl("test", "--ckpt_path", run / "checkpoints" / "best.ckpt", "--data.image_size", "64",
                   "--model.threshold", "0.3")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "the command line overrides the checkpoint: data.image_size: 48 -> 64" in outcome.err
    assert "model.threshold: 0.5 -> 0.3" in outcome.err
    assert outcome.err.count("overrides") == 2


def test_a_moved_checkpoint_writes_where_the_user_is(run: Path, mlcl, tmp_path: Path):
    Path("elsewhere.ckpt").write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
    outcome = mlcl("test", "--ckpt_path", "elsewhere.ckpt")
    assert outcome.status == 0, outcome.err
    assert metrics_of(tmp_path / "runs" / "demo" / "version_0") == metrics_of(run)


def test_every_checkpoint_holds_plain_values_only(run: Path):
    for file in (run / "checkpoints").iterdir():
        stored = torch.load(file, weights_only=True)
        assert stored["mlcl"]["classes"] == list(Demo.classes)
        config = yaml.safe_load(stored["mlcl"]["config"])
        assert os.path.isabs(config["data"]["init_args"]["root"])
        assert config["data"]["init_args"]["interpolation"] == "bilinear"
        assert "hyper_parameters" not in stored


def with_config(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """``changed.ckpt``: the best checkpoint with a change to the configuration in its record."""
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    config = yaml.safe_load(stored["mlcl"]["config"])
    change(config)
    stored["mlcl"]["config"] = yaml.safe_dump(config)
    torch.save(stored, "changed.ckpt")


@pytest.mark.parametrize(("kind", "root"), [("COCO2014", "/nowhere/coco"), ("Demo", "/proc/nowhere")])
def test_a_lost_data_root_is_one_line(run: Path, mlcl, kind, root):
    data = {"class_path": f"mlcl.data.{kind}", "init_args": {"root": root}}
    with_config(run, lambda config: config.update(data=data))
    outcome = mlcl("test", "--ckpt_path", "changed.ckpt")
    assert outcome.status == 1 and "--data.root" in outcome.err.splitlines()[-1]


def test_a_class_of_a_stranger_is_not_imported(run: Path, mlcl):
    Path("evil.py").write_text("open('ran', 'w').close()\nfrom mlcl.heads import GlobalPool\n")
    with_config(run, lambda config: config.update(data="evil.Demo"))  # jsonargparse takes plain text, too
    outcome = mlcl("test", "--ckpt_path", "changed.ckpt")
    assert outcome.status == 1 and not Path("ran").exists() and "is no configuration" in outcome.err
    places = [
        lambda config: config["model"]["network"]["init_args"].update(head="evil.GlobalPool"),
        lambda config: config["model"]["network"]["init_args"].update(head={"class_path": "evil.GlobalPool"}),
    ]
    for change in places:
        with_config(run, change)
        outcome = mlcl("test", "--ckpt_path", "changed.ckpt")
        assert outcome.status == 1 and not Path("ran").exists()
        assert outcome.err.strip().endswith("if you trust it, add --import evil")
    mlcl("test", "--ckpt_path", "changed.ckpt", "--import", "evil")
    assert Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no checkpoint, or damaged"),
        (b"not a checkpoint", "is no checkpoint, or damaged: torch.save did not write it"),
        ({"state_dict": {}}, "is not a checkpoint of mlcl"),
        ({"state_dict": 3, "mlcl": {"format": 1}}, "is not a checkpoint of mlcl"),
        ({"state_dict": {}, "mlcl": {"format": 99}}, "was written by a newer mlcl"),
        ({"state_dict": {}, "mlcl": {"format": 1, "classes": []}}, "was built in Python"),
        ({"state_dict": {}, "mlcl": {"format": 1}, "optimizer": torch.optim.AdamW}, "is refused"),
    ],
)
def test_a_file_that_is_none_of_ours_is_one_line(mlcl, content, words):
    Path("x.ckpt").write_bytes(content) if isinstance(content, bytes) else torch.save(content, "x.ckpt")
    outcome = mlcl("test", "--ckpt_path", "x.ckpt")
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("mlcl: x.ckpt") and words in outcome.err


def test_fit_goes_on_from_the_checkpoint_alone(run: Path, mlcl, demo):
    """Without a config the checkpoint's own settings are used, losses and all, if their module is trusted."""
    outcome = mlcl("fit", "--ckpt_path", run / "checkpoints" / "last.ckpt")
    assert outcome.status == 1 and "--import own_loss" in outcome.err


def test_init_from_loads_the_network_and_says_what(run: Path, mlcl, demo):
    start = ["--model.init_from", str(run / "checkpoints" / "best.ckpt"), "--test_after_fit", "false"]
    start += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    same = mlcl("fit", *demo, *start, "--name", "same")
    assert same.status == 0, same.err
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    count = sum(name.startswith("network.") for name in stored)
    assert f"{count} of {count} tensors loaded; 0 of the file not used" in same.err
    other = mlcl("fit", *demo, *start, "--name", "other", "--model.network.head.dim", "32")
    assert other.status == 0, other.err
    assert "as initialised: head.value.weight" in other.err


def test_a_model_built_in_python_is_refused_not_replaced(demo_root: Path, tmp_path: Path, mlcl):
    data = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=32, num_workers=0)
    module = MultiLabelModule(Network("test_resnet", SemanticAttention(8), data.num_classes))
    trainer = Trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=1, logger=False, accelerator="cpu", log_every_n_steps=1,
        default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, data)
    trainer.save_checkpoint("python.ckpt")
    outcome = mlcl("test", "--ckpt_path", "python.ckpt")
    assert outcome.status == 1 and "was built in Python" in outcome.err
    assert record.load("python.ckpt")["mlcl"]["classes"] == list(data.classes)
    again = MultiLabelModule.load_from_checkpoint(
        "python.ckpt", network=Network("test_resnet", SemanticAttention(8), data.num_classes), weights_only=True
    )
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in module.state_dict().items())
    with pytest.raises((TypeError, MlclError)):
        MultiLabelModule.load_from_checkpoint("python.ckpt", weights_only=True)


def test_a_table_given_by_its_path_is_found_again(mlcl, tmp_path, monkeypatch):
    """The root is then the table's folder; from elsewhere, the record alone must lead back to it."""
    from support.trees import write_table

    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 3
    rows = ["image,cat,dog,split", *(f"{i}.jpg,{i % 2},{i % 3 % 2},{split}" for i, split in enumerate(splits))]
    write_table(tmp_path / "tables", rows, name="one.csv")
    data = ["--data", "CSVDataset", "--data.csv", "tables/one.csv", "--data.image_size", "32", "--data.batch_size", "2"]
    flags = ["--data.num_workers", "0", "--trainer.max_epochs", "1"]
    network = ["--model.network.backbone", "test_resnet", "--trainer.accelerator", "cpu", "--name", "demo"]
    assert mlcl("fit", *network, *data, *flags).status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = mlcl("test", "--ckpt_path", tmp_path / "runs" / "demo")
    assert outcome.status == 0, outcome.err
    assert mlcl("calibrate", "--ckpt_path", tmp_path / "runs" / "demo" / "version_0").status == 0
