"""What a user's callbacks do beside ours: bars, checkpoints, averages, and why a training ended."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import callbacks as lightnings
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from support.fitting import demo_module, fit

from mlcl.callbacks import admit
from mlcl.data import Demo
from mlcl.errors import MlclError
from mlcl.metrics import NAMES

SHORT = [
    *("--data.image_size", "32", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
    *("--trainer.num_sanity_val_steps", "0", "--test_after_fit", "false", "--ema_decay", "null"),
]
FOLDER = Path("runs/demo/version_0")
OWN = """
import lightning
class Bar(lightning.Callback):
    def on_fit_end(self, trainer, module):
        print("bar:", type(trainer.progress_bar_callback).__name__)
class Fails(lightning.Callback):
    def on_train_batch_end(self, *_):
        raise ValueError("the first error")
class SavesNothing(lightning.Callback):
    def on_save_checkpoint(self, *_):
        raise ValueError("the second error")
"""


@pytest.fixture
def train(mlcl, demo):
    """A short training with these callbacks, as a config file has them; their classes may be in own.py."""

    def run(callbacks, *flags):
        Path("own.py").write_text(OWN)
        given = [{"class_path": name, "init_args": settings} for name, settings in callbacks.items()]
        Path("mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": given}}))
        return mlcl("fit", *demo, *SHORT, "--config", "mine.yaml", "--name", "demo", *flags)

    return run


def last_line(outcome):
    return outcome.err.strip().splitlines()[-1]


def log(folder=FOLDER):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def files(folder):
    return {path.name for path in Path(folder).iterdir()}


@pytest.mark.slow
def test_a_run_with_lightnings_callbacks_goes_on(train, mlcl):
    """From its checkpoint alone, which names their classes; a larger patience counts at once."""
    stop = {"monitor": "val/mAP", "mode": "max", "min_delta": 1.0, "patience": 2}
    best = {"monitor": "val/mAP", "mode": "max", "save_top_k": 3, "filename": "{epoch}"}
    callbacks = {"ModelCheckpoint": best, "RichProgressBar": {}, "Timer": {"duration": "01:00:00:00"}}
    callbacks["SpikeDetection"] = {"rtol": 1e6}
    flags = ["--trainer.max_epochs", "9", "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"]
    first = train({"EarlyStopping": stop, **callbacks}, *flags)
    ended = "training ended after epoch 3 of 9: EarlyStopping: Monitored metric val/mAP did not improve"
    assert first.status == 0 and ended in first.err, first.err
    again = mlcl("fit", "--name", "demo", "--ckpt_path", "last")
    assert again.status == 0 and ended in again.err and "images/s" not in again.err, again.err
    longer = train({"EarlyStopping": {**stop, "patience": 3}, **callbacks}, *flags, "--ckpt_path", "last")
    assert longer.status == 0 and "ended after epoch 4 of 9" in longer.err, longer.err
    assert len(files(FOLDER / "checkpoints")) == 5  # the best three of four epochs, and ours
    assert sum(bool(row["val/mAP"]) for row in log()) == 4
    assert len(list(Path("logs").rglob("metrics.csv"))) == 2  # of the two that trained


def test_checkpoints_rates_and_a_log_go_where_they_are_told(train):
    every = {"save_top_k": -1, "dirpath": "every", "filename": "{epoch}", "save_last": True}
    callbacks = {"ModelCheckpoint": every, "LearningRateMonitor": {"logging_interval": "epoch"}}
    outcome = train(callbacks, "--trainer.log_every_n_steps", "1")
    assert outcome.status == 0, outcome.err
    assert files("every") == {"epoch=0.ckpt", "epoch=1.ckpt", "last.ckpt"}
    assert files(FOLDER / "checkpoints") == {"best.ckpt", "last.ckpt"}
    rates = next(name for name in log()[0] if name.startswith("lr-"))
    assert sum(bool(row[rates]) for row in log()) == 2  # of four steps: theirs takes the place of ours


def admitted(*given, bar=False, averaged=False):
    return admit(list(given), FOLDER, bar, averaged)


@pytest.mark.parametrize("settings", [{"save_last": True}, {"save_last": "link"}, {"filename": "best"}])
def test_the_runs_own_checkpoints_stay_its_own(settings):
    for place in (None, FOLDER / "checkpoints"):
        with pytest.raises(MlclError, match=r"ModelCheckpoint: checkpoints/(best|last)\.ckpt is the run's own"):
            admitted(ModelCheckpoint(dirpath=place, **settings))
    assert len(admitted(ModelCheckpoint(dirpath="elsewhere", **settings))) == 1


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (
            EarlyStopping("val/mAP"),
            "EarlyStopping takes the lowest val/mAP for the best, but it is a score: give mode max",
        ),
        (ModelCheckpoint(monitor="val/OF1_top3"), "ModelCheckpoint takes the lowest val/OF1_top3"),
        (EarlyStopping("val/classification", mode="max"), "but it is a loss: give mode min"),
        (ModelCheckpoint(monitor="train/loss", mode="max"), "but it is a loss: give mode min"),
        (EarlyStopping("val/mAP", mode="max"), ""),
        (ModelCheckpoint(monitor="step", mode="max"), ""),
    ],
)
def test_the_wrong_direction_is_warned_of(capsys, callback, said):
    assert admitted(callback) == [callback]
    warned = capsys.readouterr().err
    assert said in warned if said else not warned


@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_metric_that_does_not_exist_is_refused_before_the_training(kind):
    with pytest.raises(MlclError, match=f"{kind.__name__}: nothing is logged as val_loss; a validation gives val/mAP"):
        admitted(kind(monitor="val_loss"))
    own = type("Logs", (lightnings.Callback,), {"__module__": "own"})()  # which may log anything
    assert len(admitted(kind(monitor="val_loss"), own)) == 2


def test_the_metrics_that_are_named_are_those_that_are_logged(trained):
    with pytest.raises(MlclError) as refused:
        admitted(EarlyStopping("x"))
    named = str(refused.value).partition("a validation gives ")[2].split(", ")
    assert sorted(named) == sorted(name for name in log(trained)[0] if name.startswith("val/"))
    assert len(named) > len(NAMES)


def test_the_users_bar_takes_the_place_of_ours(train, monkeypatch):
    bar = lightnings.TQDMProgressBar()
    assert admitted(bar) == [] and admitted(bar, bar=True) == [bar]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    outcome = train({"TQDMProgressBar": {}, "own.Bar": {}}, "--trainer.max_epochs", "1")
    assert outcome.status == 0 and "bar: TQDMProgressBar" in outcome.out, outcome.err


def test_a_timer_says_that_its_time_is_over(train):
    outcome = train({"Timer": {"duration": "00:00:00:00"}})
    assert outcome.status == 0, outcome.err
    assert "training ended after epoch 0 of 2: Timer: its time is over" in outcome.err


def test_the_first_error_is_the_one_that_is_shown(train):
    """Also where the checkpoint that a user wants after an error cannot be saved."""
    callbacks = {"ModelCheckpoint": {"save_on_exception": True, "filename": "failed"}, "own.Fails": {}}
    outcome = train(callbacks)
    assert outcome.status == 1 and "the first error" in last_line(outcome)
    assert "failed.ckpt" in files(FOLDER / "checkpoints")
    outcome = train({**callbacks, "own.SavesNothing": {}})
    assert outcome.status == 1 and "the first error" in last_line(outcome)
    assert "warning: no checkpoint is saved after the error: the second error" in outcome.err


@pytest.mark.slow
def test_a_mean_of_the_weights_is_saved_and_continued(train, mlcl):
    outcome = train({"WeightAveraging": {}})
    assert outcome.status == 0, outcome.err
    stored = torch.load(FOLDER / "checkpoints" / "last.ckpt", weights_only=True)
    name = "network.head.value.weight"
    assert not torch.equal(stored["state_dict"][name], stored["current_model_state"][name])
    assert mlcl("fit", "--name", "demo", "--ckpt_path", "last").status == 0
    outcome = train({}, "--ckpt_path", "last")
    assert outcome.status == 1 and "holds a moving average" in last_line(outcome)


def test_no_average_is_silently_wrong(train):
    mean, ema = lightnings.WeightAveraging(), lightnings.EMAWeightAveraging()
    for given, averaged in (([mean, ema], False), ([ema], True)):
        with pytest.raises(MlclError, match="EMAWeightAveraging is refused: there is a moving average already"):
            admitted(*given, averaged=averaged)
    outcome = train({"EMAWeightAveraging": {"update_starting_at_step": 3}})
    assert outcome.status == 1 and "after 2 steps the moving average has not begun" in last_line(outcome)
    assert not list(FOLDER.rglob("*.ckpt"))


def test_a_test_says_that_it_goes_without_them(mlcl, trained):
    shutil.copytree(trained, FOLDER)
    outcome = mlcl("test", "--ckpt_path", FOLDER, "--trainer.callbacks+=ModelSummary")
    assert outcome.status == 0 and "mlcl test goes without them" in outcome.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--trainer.callbacks+=EarlyStopping"], "--trainer.callbacks: EarlyStopping needs monitor"),
        (["--trainer.callbacks+=EarlyStoping"], "unknown class 'EarlyStoping'; known: "),
        (["--trainer.callbacks+=Timer", "--trainer.callbacks.hours", "3"], "--trainer.callbacks.hours: unknown option"),
        (["--trainer.callbacks+=Timer", "--trainer.callbacks.duration", "3h"], "Timer: `Timer(duration='3h')`"),
    ],
)
def test_mistakes_are_one_line(mlcl, demo, flags, said):
    outcome = mlcl("fit", *demo, *flags)
    assert outcome.status in (1, 2) and said in outcome.err and outcome.err.count("\n") == 1, outcome.err


@pytest.mark.parametrize("callback", [lightnings.BatchSizeFinder(), lightnings.GradientAccumulationScheduler({0: 2})])
def test_what_would_change_the_schedule_is_refused_in_python(demo_root, callback):
    data = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=32, num_workers=0)
    with pytest.raises(MlclError, match=f"{type(callback).__name__} is refused: "):
        fit(demo_module("LabelContrastiveLoss"), data, [callback], max_epochs=1)
