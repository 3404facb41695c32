"""What a user's callbacks do beside ours: bars, checkpoints, averages, and why a training ended."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from support.fitting import demo_module, fit

from mlcl.data import Demo
from mlcl.errors import MlclError

SHORT = [
    *("--data.image_size", "32", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
    *("--trainer.num_sanity_val_steps", "0", "--test_after_fit", "false", "--ema_decay", "null"),
]
FOLDER = Path("runs/demo/version_0")
PROBE = """
import lightning
class Probe(lightning.Callback):
    def on_fit_end(self, trainer, module):
        print("bar:", type(trainer.progress_bar_callback).__name__)
"""


@pytest.fixture
def train(mlcl, demo):
    """A short training with these callbacks, as a config file has them."""

    def run(callbacks, *flags):
        given = [{"class_path": name, "init_args": settings} for name, settings in callbacks.items()]
        Path("mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": given}}))
        return mlcl("fit", *demo, *SHORT, "--config", "mine.yaml", "--name", "demo", *flags)

    return run


def last_line(outcome):
    return outcome.err.strip().splitlines()[-1]


STOPS = {"EarlyStopping": {"monitor": "val/mAP", "mode": "max", "stopping_threshold": 0.0}}
BEST = {"monitor": "val/mAP", "mode": "max", "save_top_k": 3, "filename": "{epoch}"}


def test_a_run_with_lightnings_callbacks_goes_on_from_its_checkpoint_alone(train, mlcl):
    """Checkpoints, early stopping, a progress bar and a logger, whose classes and states are in the checkpoint."""
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs", "--trainer.max_epochs", "5"]
    callbacks = {"ModelCheckpoint": BEST, **STOPS, "RichProgressBar": {}, "Timer": {"duration": "01:00:00:00"}}
    first = train(callbacks, *logger)
    assert first.status == 0, first.err
    assert "training ended after epoch 1 of 5: EarlyStopping: Stopping threshold reached: val/mAP" in first.err
    for epoch in (2, 3, 4):
        outcome = mlcl("fit", "--name", "demo", "--ckpt_path", "last")
        assert outcome.status == 0, outcome.err
        assert f"training ended after epoch {epoch} of 5" in outcome.err
    names = {path.name for path in (FOLDER / "checkpoints").iterdir()}
    assert len(names) == 5 and names >= {"best.ckpt", "last.ckpt"}  # three of the four epochs
    assert len(list(csv.DictReader((FOLDER / "metrics.csv").open()))) >= 4
    assert len(list(Path("logs").rglob("metrics.csv"))) == 4


def test_a_checkpoint_of_every_epoch_goes_where_it_is_told(train):
    outcome = train(
        {"ModelCheckpoint": {"save_top_k": -1, "dirpath": "every", "filename": "{epoch}", "save_last": True}}
    )
    assert outcome.status == 0, outcome.err
    assert {path.name for path in Path("every").iterdir()} == {"epoch=0.ckpt", "epoch=1.ckpt", "last.ckpt"}
    assert {path.name for path in (FOLDER / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize("settings", [{"save_last": True}, {"save_last": "link"}, {"filename": "best"}])
def test_the_runs_own_checkpoints_stay_its_own(train, settings):
    outcome = train({"ModelCheckpoint": settings})
    assert outcome.status == 1 and last_line(outcome).startswith("mlcl: ModelCheckpoint: checkpoints/")


def test_a_checkpoint_from_within_an_epoch_goes_on_with_a_warning(train):
    callbacks = {"ModelCheckpoint": {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}}
    assert train(callbacks).status == 0
    outcome = train(callbacks, "--ckpt_path", str(FOLDER / "checkpoints" / "step=1.ckpt"))
    assert outcome.status == 0 and "warning: this checkpoint is from within an epoch" in outcome.err
    assert "within an epoch" not in train(callbacks, "--ckpt_path", "last").err


def test_early_stopping_goes_on_with_more_patience(train):
    settings = {"monitor": "val/mAP", "mode": "max", "min_delta": 1.0, "patience": 1}
    flags = ["--trainer.max_epochs", "9"]
    stopped = train({"EarlyStopping": settings}, *flags)
    assert "training ended after epoch 2 of 9: EarlyStopping: Monitored metric val/mAP did not improve" in stopped.err
    again = train({"EarlyStopping": settings}, *flags, "--ckpt_path", "last")
    assert again.status == 0 and "ended after epoch 2 of 9" in again.err and "images/s" not in again.err
    longer = train({"EarlyStopping": {**settings, "patience": 3}}, *flags, "--ckpt_path", "last")
    assert longer.status == 0 and "ended after epoch 4 of 9" in longer.err


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("EarlyStopping", {"monitor": "val/mAP"}, "the lowest val/mAP for the best, but it is a score: give mode max"),
        ("ModelCheckpoint", {"monitor": "val/OF1_top3"}, "the lowest val/OF1_top3 for the best"),
        ("ModelCheckpoint", {"monitor": "val/classification", "mode": "max"}, "it is a loss: give mode min"),
    ],
)
def test_the_wrong_direction_is_warned_of(train, name, settings, said):
    outcome = train({name: settings}, "--trainer.max_epochs", "1")
    assert outcome.status == 0 and f"warning: {name} takes " in outcome.err and said in outcome.err


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint"])
def test_a_metric_that_does_not_exist_is_refused_before_the_training(train, name):
    outcome = train({name: {"monitor": "val_loss"}})
    assert outcome.status == 1 and "images/s" not in outcome.err
    assert last_line(outcome).startswith(f"mlcl: {name}: nothing is logged as val_loss; a validation gives val/mAP")
    assert not FOLDER.exists()


def test_the_metrics_that_are_named_are_those_that_are_logged(trained):
    from mlcl.callbacks.users import _LOGGED

    names = next(csv.reader((trained / "metrics.csv").open()))
    assert {name for name in names if name.startswith("val/")} == set(_LOGGED)


def test_the_users_bar_takes_the_place_of_ours(train, monkeypatch):
    Path("probe.py").write_text(PROBE)
    probe, short = {"probe.Probe": {}}, ["--trainer.max_epochs", "1"]
    assert "bar: NoneType" in train({"TQDMProgressBar": {}, **probe}, *short).out
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert "bar: ImageProgressBar" in train(probe, *short).out
    assert "bar: TQDMProgressBar" in train({"TQDMProgressBar": {}, **probe}, *short).out


def test_a_timer_says_that_its_time_is_over(train):
    timer = {"Timer": {"duration": "00:00:00:00"}}
    outcome = train(timer)
    assert outcome.status == 0, outcome.err
    assert "training ended after epoch 0 of 2: Timer: its time is over" in outcome.err


def test_the_users_rates_take_the_place_of_ours(train):
    assert train({"LearningRateMonitor": {"logging_interval": "epoch"}}, "--trainer.log_every_n_steps", "1").status == 0
    rows = list(csv.DictReader((FOLDER / "metrics.csv").open()))
    rates = next(name for name in rows[0] if name.startswith("lr-"))
    assert sum(bool(row[rates]) for row in rows) == 2  # of four steps


def test_a_mean_of_the_weights_is_saved_and_continued(train):
    outcome = train({"WeightAveraging": {}}, "--trainer.max_epochs", "2")
    assert outcome.status == 0, outcome.err
    stored = torch.load(FOLDER / "checkpoints" / "last.ckpt", weights_only=True)
    name = "network.head.value.weight"
    assert not torch.equal(stored["state_dict"][name], stored["current_model_state"][name])
    outcome = train({}, "--ckpt_path", "last", "--trainer.max_epochs", "2")
    assert outcome.status == 1 and "holds a moving average" in last_line(outcome)


@pytest.mark.parametrize(
    ("callbacks", "flags", "said"),
    [
        ({"EMAWeightAveraging": {}}, ["--ema_decay", "0.9"], "there is a moving average already"),
        ({"EMAWeightAveraging": {}, "WeightAveraging": {}}, [], "there is a moving average already"),
        ({"EMAWeightAveraging": {"update_starting_at_step": 3}}, [], "after 2 steps the moving average has not begun"),
    ],
)
def test_no_average_is_silently_wrong(train, callbacks, flags, said):
    outcome = train(callbacks, *flags)
    assert outcome.status == 1 and said in last_line(outcome)
    assert not list(FOLDER.rglob("*.ckpt"))


def test_a_test_says_that_it_goes_without_them(mlcl, trained):
    shutil.copytree(trained, FOLDER)
    outcome = mlcl("test", "--ckpt_path", FOLDER, "--trainer.callbacks+=ModelSummary")
    assert outcome.status == 0 and "mlcl test goes without them" in outcome.err


@pytest.mark.parametrize("callback", [BatchSizeFinder(), GradientAccumulationScheduler({0: 2})])
def test_what_would_change_the_schedule_is_refused_in_python(demo_root, callback):
    data = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=32, num_workers=0)
    with pytest.raises(MlclError, match=f"{type(callback).__name__} is refused: "):
        fit(demo_module("LabelContrastiveLoss"), data, [callback], max_epochs=1)
