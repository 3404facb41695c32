"""Which epoch is called the best where the metric that should choose one is NaN, or is never measured."""

import csv
import math
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from support.own_classes import STOPPER
from support.trees import write_table
from torch import nn
from torch.utils.data import DataLoader

from mlcl.callbacks import Monitors, best_and_last

NAN, NONE = math.nan, None
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*log_every_n_steps", "ignore:Checkpoint directory"
)


class Scripted(LightningModule):
    """Logs the given value of each epoch, or none."""

    def __init__(self, name: str, values: list[float | None]) -> None:
        super().__init__()
        self.layer, self.name_of_value, self.values = nn.Linear(2, 1), name, values

    def configure_callbacks(self):
        return [Monitors()]

    def training_step(self, batch, _):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, _):
        value = self.values[self.current_epoch]
        if value is not None:
            self.log(self.name_of_value, value)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, values, name="val/mAP", callbacks=None, resume=None, **settings):
    callbacks = best_and_last(folder) if callbacks is None else callbacks
    trainer = Trainer(
        **{"max_epochs": len(values), "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0, **settings},
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks, default_root_dir=folder,
    )  # fmt: skip
    data = DataLoader(torch.randn(8, 2), batch_size=4)
    trainer.fit(Scripted(name, values), data, data, ckpt_path=resume, weights_only=True)
    return {file.stem: torch.load(file, weights_only=True)["epoch"] for file in sorted(folder.glob("*.ckpt"))}


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([NAN, NAN, NAN], 2),  # the last
        ([NAN, 0.2, NAN], 1),  # a number beats NaN, NaN never a number
        ([0.3, NAN, 0.2], 0),
        ([NAN, 0.2, 0.3], 2),
        ([NONE, NONE, NONE], 2),  # a module of the user's that does not log it
        ([NONE, 0.2, 0.1], 1),
    ],
)
def test_best_is_the_highest_number_or_else_the_last_epoch(tmp_path, capsys, values, best):
    """Also where the run was stopped after any epoch and went on, its folder moved or not."""
    assert fit(tmp_path / "whole", values) == {"best": best, "last": 2}
    chosen = any(value is not None and not math.isnan(value) for value in values)
    assert ("best.ckpt is the last epoch: " in capsys.readouterr().err) == (not chosen)
    for epochs in (1, 2):
        folder = tmp_path / f"after{epochs}"
        fit(folder, values[:epochs])
        folder = folder.rename(tmp_path / "moved") if epochs == 2 else folder
        assert fit(folder, values, resume=folder / "last.ckpt") == {"best": best, "last": 2}


@pytest.mark.parametrize(
    ("settings", "best"),
    [
        ({"limit_val_batches": 0}, 2),
        ({"check_val_every_n_epoch": 5}, 2),
        ({"check_val_every_n_epoch": 2}, 1),
        ({"val_check_interval": 0.5}, 1),
        ({"max_steps": 1}, 0),  # ends before the first validation
    ],
)
def test_without_a_validation_best_is_the_last_epoch(tmp_path, capsys, settings, best):
    stored = fit(tmp_path, [0.2, 0.5, 0.1], **settings)
    assert stored["best"] == best
    err = capsys.readouterr().err
    never = "max_steps" in settings or settings.get("check_val_every_n_epoch") == 5 or "limit_val_batches" in settings
    assert ("nothing is validated" in err) == (never and "max_steps" not in settings)
    assert ("best.ckpt is the last epoch: val/mAP" in err) == never


def test_a_run_of_before_with_nan_as_its_best_goes_on(tmp_path):
    """Its score was stored as -inf."""
    fit(tmp_path, [NAN])
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    best = str(tmp_path / "best.ckpt")
    state = stored["callbacks"]["RunCheckpoint:best"]
    state |= {"best_model_score": torch.tensor(-math.inf), "best_k_models": {best: torch.tensor(-math.inf)}}
    state |= {"kth_best_model_path": best, "kth_value": torch.tensor(-math.inf)}
    torch.save(stored, tmp_path / "last.ckpt")
    assert fit(tmp_path, [NAN, NAN], resume=tmp_path / "last.ckpt")["best"] == 1
    torch.save(stored, tmp_path / "last.ckpt")
    assert fit(tmp_path, [NAN, 0.1, NAN], resume=tmp_path / "last.ckpt")["best"] == 1


def test_a_metric_of_the_users_that_is_nan_is_said_once_and_why_the_training_ended(tmp_path, capsys):
    own = ModelCheckpoint(tmp_path, "own", monitor="val/mine", mode="max")
    assert fit(tmp_path, [NAN] * 3, "val/mine", [own, EarlyStopping("val/mine", check_finite=False)]) == {"own": 0}
    err = capsys.readouterr().err
    assert err.count("val/mine is NaN") == 1 and "ModelCheckpoint of your own" in err
    fit(tmp_path / "stopped", [0.1, NAN, 0.2], "val/mine", [EarlyStopping("val/mine", mode="max")])
    err = capsys.readouterr().err
    assert err.count("val/mine is NaN") == 1 and "training ended after epoch 2" in err and "not finite" in err


def test_early_stopping_says_why_and_not_again_after_a_resume(tmp_path, capsys):
    stop = [EarlyStopping("val/mAP", mode="max", patience=1), *best_and_last(tmp_path)]
    assert fit(tmp_path, [0.3, 0.2, 0.1, 0.1], callbacks=stop)["last"] == 1
    err = capsys.readouterr().err
    assert "training ended after epoch 2" in err and "did not improve" in err and "warning" not in err
    stop = [EarlyStopping("val/mAP", mode="max", patience=9), *best_and_last(tmp_path)]
    fit(tmp_path, [0.3, 0.2, 0.4], callbacks=stop, resume=tmp_path / "last.ckpt")
    assert "training ended" not in capsys.readouterr().err


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    """Flags of a training on a table whose test images, which are validated, have no label."""
    rows = [f"{n}.jpg,{'cat' if n % 2 else 'dog'},train" for n in range(8)] + [f"{n}.jpg,,test" for n in range(8, 12)]
    write_table(tmp_path / "table", ["image,labels,split", *rows])
    return [
        *("--data", "CSVDataset", "--data.root", str(tmp_path / "table"), "--data.labels_column", "labels"),
        *("--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"),
        *("--model.network.backbone", "test_resnet", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "3"),
    ]


def test_a_validation_without_positives_is_said_before_the_training(mlcl, table):
    Path("own_stop.py").write_text(STOPPER)
    stop = ["--trainer.callbacks+", "own_stop.StopAfter", "--trainer.callbacks.epochs", "2"]
    for more, last in ((stop, 1), (["--ckpt_path", "last", "--import", "own_stop", "--trainer.callbacks", "null"], 2)):
        done = mlcl("fit", *table, *more, "--test_after_fit", "false")
        assert done.status == 0, done.err
        before, _, after = done.err.partition("\nepoch ")
        assert before.count("val/mAP will choose no epoch") == 1 and "val split" in before, done.err
        assert "--data.val_fraction" in before and "warning" not in after
        assert "best.ckpt is the last epoch: val/mAP" in after
        best = torch.load("runs/run/version_0/checkpoints/best.ckpt", weights_only=True)
        assert best["epoch"] == last
    rows = list(csv.DictReader(Path("runs/run/version_0/metrics.csv").read_text().splitlines()))
    assert [row["val/mAP"] for row in rows if row["val/mAP"]] == ["nan"] * 3


@pytest.mark.parametrize(
    ("labels", "limit", "said"),
    [
        (["cat", "cat", "", ""], "1.0", False),  # one class of the two is measured: their mean is over that one
        # Of the images that are looked at, all are cats.
        pytest.param(["cat", "cat", "", ""], "1", True, marks=pytest.mark.slow),
        pytest.param(["cat", "cat", "cat", "cat"], "1.0", True, marks=pytest.mark.slow),
        (["-1", "-1", "cat", "cat"], "1.0", True),  # nothing is known to be absent from another
    ],
)
def test_what_a_part_of_the_classes_or_images_can_choose(mlcl, tmp_path, table, labels, limit, said):
    rows = [f"{n}.jpg,{'cat' if n % 2 else 'dog'},train" for n in range(4)]
    rows += [f"{n}.jpg,{label},test" for n, label in enumerate(labels, 4)]
    write_table(tmp_path / "table", ["image,labels,split", *rows])
    done = mlcl("fit", *table, "--data.batch_size", "2", "--trainer.limit_val_batches", limit, "--trainer.max_epochs",
                "1", "--test_after_fit", "false")  # fmt: skip
    assert done.status == 0 and ("will choose no epoch" in done.err) == said, done.err
