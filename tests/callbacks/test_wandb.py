"""A real W&B run, made offline by the command line and read back from its own file."""

import csv
import json
import math
import sys

import numpy as np
import pytest
import wandb
import yaml
from PIL import Image
from support.running import demo_flags
from support.wandb_file import read_run

from mlcl.__main__ import main
from mlcl.callbacks.loggers import WandbLog
from mlcl.metrics import NAMES

KEY = "0123456789abcdef" * 2 + "01234567"  # of the form that W&B's have
SHORT = ("--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "2")


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory, demo_root):
    """Two finished runs of the demo with a head that has attention maps; the second one uploads its best checkpoint."""
    folder = tmp_path_factory.mktemp("tracked")
    flags = ["fit", *demo_flags(demo_root), *SHORT, "--data.val_fraction", "0.25", "--trainer.logger", "WandbLogger"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_API_KEY", KEY)
        assert main([*flags, "--trainer.logger.offline", "true"]) == 0
        second = ["--trainer.logger.log_model", "true", "--log_images", "0", "--trainer.max_epochs", "1"]
        assert main([*flags, *second]) == 0
    return folder / "runs" / "demo"


@pytest.fixture(scope="module")
def run(runs_folder):
    (folder,) = (runs_folder / "version_0" / "wandb").glob("offline-run-*")
    return read_run(folder)


def test_the_config_is_the_run_s_own_sent_once(run, runs_folder):
    stored = yaml.safe_load((runs_folder / "version_0" / "config.yaml").read_text())
    assert run.config == stored
    assert stored["model"]["optimizer"]["init_args"]["lr"] == 3e-3  # the loss, the data, the optimizer: all of it
    assert run.configured == 1


def test_the_run_is_called_as_its_folder_is(run):
    assert (run.name, run.group, run.project) == ("demo/version_0", "demo", "mlcl")


def test_the_run_is_finished(run):
    assert run.exit_code == 0


def test_the_summary_is_the_best_value(run):
    scores = [row["val/mAP"] for row in run.history if "val/mAP" in row]
    assert len(scores) == 2
    assert run.summary["val/mAP"] == {"max": max(scores)}
    assert {f"val/{name}" for name in NAMES} <= {name for name, metric in run.metrics.items() if metric.summary.max}
    losses = [row["val/classification"] for row in run.history if "val/classification" in row]
    assert run.summary["val/classification"] == {"min": min(losses)}


def test_the_best_value_outlives_a_nan(tmp_path):
    logger = WandbLog(tmp_path / "runs" / "demo" / "version_0", offline=True)
    for step, value in enumerate((0.5, math.nan, 0.7, math.nan)):
        logger.log_metrics({"val/mAP": value, "train/loss": 1.0}, step)
    logger.close(0)
    (folder,) = tmp_path.glob("runs/demo/version_0/wandb/offline-run-*")
    run = read_run(folder)
    assert run.summary["val/mAP"] == {"max": 0.7}
    assert [row.get("val/mAP") for row in run.history] == [0.5, None, 0.7, None]
    assert len([row for row in run.history if "train/loss" in row]) == 4


def test_the_test_s_numbers_are_those_of_the_run_s_files(run, runs_folder):
    written = json.loads((runs_folder / "version_0" / "metrics.json").read_text())["metrics"]
    for name in NAMES:
        assert run.summary[f"test/{name}"] == pytest.approx(written[name])


def test_curves_of_losses_learning_rates_and_gradients(run):
    for key in ("train/loss", "lr-AdamW/other", "gradient/backbone", "gradient/head"):
        values = [row[key] for row in run.history if key in row]
        assert len(values) >= 2, key
        assert all(np.isfinite(values))
        assert max(values) > 0


def test_the_table_of_classes(run, runs_folder):
    columns, rows = run.table("test/per_class")
    with (runs_folder / "version_0" / "per_class.csv").open() as file:
        stored = {row["class"]: row for row in csv.DictReader(file)}
    assert columns[:2] == ["class", "AP (percent)"]
    assert {row[0] for row in rows} == {*stored}
    for row in rows:
        ap = stored[row[0]]["AP"]
        assert row[1] == (pytest.approx(100 * float(ap), abs=1e-3) if ap else None)
        assert row[-1] == int(stored[row[0]]["positives"])


def test_every_metric_has_a_unit_a_direction_and_a_definition(run):
    columns, rows = run.table("test/metrics")
    assert columns == ["metric", "value", "unit", "better", "definition"]
    assert {row[0] for row in rows} == {*NAMES}
    assert {(row[2], row[3]) for row in rows} == {("percent", "higher")}
    said = {row[0]: row[4] for row in rows}
    assert said["CF1"] == "2 CP CR / (CP + CR)"
    assert said["CR_top3"].startswith("means over the classes")
    assert said["CR_top3"].endswith("above the threshold")


def test_the_curves_are_a_chart_over_a_table(run):
    (key,) = (key for key in run.summary if key.startswith("test/pr_curves"))
    columns, rows = run.table(key)
    assert columns == ["class", "recall", "precision"]
    assert all(0 <= value <= 1 for row in rows for value in row[1:])
    assert 2 <= len({row[0] for row in rows}) <= 10


@pytest.mark.parametrize("kind", ["false_positives", "false_negatives", "reliability", "co_occurrence", "embeddings"])
def test_pictures_are_there(run, kind):
    stored = run.summary[f"test/{kind}"]
    assert 1 <= stored["count"] <= 12
    for name in stored["filenames"]:
        with Image.open(run.folder / "files" / name) as picture:
            assert np.asarray(picture).std() > 5, name
    assert len(stored["captions"]) == stored["count"]
    if kind.startswith("false"):  # the picture, and beside it where the class looked
        assert (stored["width"], stored["height"]) == (640, 320)


def test_embeddings_are_a_table_that_can_be_projected(run):
    columns, rows = run.table("test/embedding_table")
    assert columns == ["class", *(f"d{n}" for n in range(32))]
    assert len(rows) >= 10
    assert np.isfinite([row[1:] for row in rows]).all()


def test_no_checkpoint_is_uploaded_unless_asked_for(run):
    assert not any("model" in artifact.type for artifact in run.artifacts)


def test_two_runs_lie_beside_each_other_and_pictures_can_be_left_out(run, runs_folder):
    (folder,) = (runs_folder / "version_1" / "wandb").glob("offline-run-*")
    second = read_run(folder)
    assert second.id != run.id
    assert second.name == "demo/version_1"
    assert not {"test/false_positives", "test/false_negatives"} & {*second.summary}
    assert "test/per_class" in second.summary


def test_the_csv_file_is_written_all_the_same(runs_folder):
    with (runs_folder / "version_0" / "metrics.csv").open() as file:
        assert any(row["val/mAP"] for row in csv.DictReader(file))


def test_a_run_that_goes_on_goes_on_in_wandb(mlcl, runs_folder, run, monkeypatch):
    monkeypatch.chdir(runs_folder.parent.parent)
    checkpoint = runs_folder / "version_0" / "checkpoints" / "last.ckpt"
    result = mlcl("fit", "--ckpt_path", checkpoint, "--trainer.max_epochs", "2", "--test_after_fit", "false")
    assert result.status == 0, result.err
    folders = sorted((runs_folder / "version_0" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert {read_run(folder).id for folder in folders} == {run.id}


def test_the_best_checkpoint_is_an_artifact_where_asked_for(runs_folder):
    (folder,) = runs_folder.glob("version_1/wandb/offline-run-*")
    (artifact,) = (a for a in read_run(folder).artifacts if a.type == "model")
    assert {*artifact.aliases} == {"latest", "best"}
    assert "best.ckpt" in artifact.metadata


def test_without_an_account_one_line_says_what_to_do(mlcl, demo, tmp_path, monkeypatch):
    home = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    for name, value in home.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # of what it has read of the environment
    result = mlcl("fit", *demo, *SHORT, "--trainer.logger", "WandbLogger")
    wandb.teardown()
    assert result.status == 1
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("mlcl: ")
    assert "offline" in last
    assert "Traceback" not in result.err
    assert not list(tmp_path.glob("runs/demo/*"))


def test_no_key_is_written_to_the_run(runs_folder):
    files = [path for path in runs_folder.parent.parent.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_reading_is_not_blind():
    """The reader knows the kinds of this wandb's records."""
    from wandb.proto import wandb_internal_pb2

    names = {field.name for field in wandb_internal_pb2.Record.DESCRIPTOR.oneofs_by_name["record_type"].fields}
    assert {"run", "config", "history", "summary", "metric", "artifact", "exit"} <= names
    assert wandb.__version__
    assert "wandb" in sys.modules
