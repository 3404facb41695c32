"""Fit in detail: the checkpoints it keeps, its folders, a loss of the user's own, views, schedules by the step."""

import csv
import itertools
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from support.own_classes import LOSS, STOPPER


def log(run: str, column: str) -> list[float]:
    rows = csv.DictReader(Path(run, "metrics.csv").read_text().splitlines())
    return [float(row[column]) for row in rows if row.get(column)]


def test_best_is_the_highest_and_last_is_the_last_epoch(mlcl, demo):
    outcome = mlcl(
        "fit", *demo, "--trainer.max_epochs", "4", "--model.optimizer.lr", "0.03", "--test_after_fit", "false"
    )
    assert outcome.status == 0, outcome.err
    folder = Path("runs/demo/version_0")
    best, last = (torch.load(folder / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("best", "last"))
    scores = log(str(folder), "val/mAP")
    assert last["epoch"] == 3
    assert scores[best["epoch"]] == max(scores)


def test_a_second_run_gets_a_folder_of_its_own(mlcl, demo):
    for _ in range(2):
        assert mlcl("fit", *demo, "--trainer.max_epochs", "1", "--name", "a/b", "--test_after_fit", "false").status == 0
    assert sorted(p.name for p in Path("runs/a/b").iterdir()) == ["version_0", "version_1"]
    assert Path("runs/a/b/version_0/config.yaml").is_file()


def test_a_loss_from_a_file_of_the_users(mlcl, demo):
    """Its sizes come from the dataset and the head; its own arguments and its weight are flags."""
    Path("own_loss.py").write_text(LOSS.replace("dim: int)", "dim: int, scale: float = 1.0)"))
    flags = [
        "--model.embedding_loss",
        "own_loss.Pull",
        "--model.embedding_loss.scale",
        "2",
        "--trainer.log_every_n_steps",
        "1",
        "--test_after_fit",
        "false",
    ]
    outcome = mlcl("fit", *demo, *flags, "--model.network.head.dim", "24", "--trainer.max_epochs", "1")
    assert outcome.status == 0, outcome.err
    stored = torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)
    assert stored["state_dict"]["embedding_loss.prototypes"].shape == (12, 24)
    loss, parts = log("runs/demo/version_0", "train/loss"), ("classification", "pull")
    assert len(loss) > 1
    assert loss == pytest.approx(
        [sum(x) for x in zip(*(log("runs/demo/version_0", f"train/{p}") for p in parts), strict=True)]
    )
    evaluated = mlcl("test", "--ckpt_path", "runs/demo/version_0/checkpoints/best.ckpt")
    assert evaluated.status == 0, evaluated.err  # the loss is not needed, nor its file imported


@pytest.mark.parametrize(
    ("schedule", "shape"),
    [
        (["WarmupCosine", "--model.schedule.warmup_epochs", "1"], "up and down"),
        (["StepDecay", "--model.schedule.every_epochs", "1"], "down"),
    ],
)
def test_schedules_step_with_the_optimizer(mlcl, demo, schedule, shape):
    quick = ["--trainer.log_every_n_steps", "1", "--test_after_fit", "false", "--model.lr_mult", "{backbone: 0.1}"]
    outcome = mlcl("fit", *demo, *quick, "--model.schedule", *schedule)
    assert outcome.status == 0, outcome.err
    header = Path("runs/demo/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    columns = [name for name in header if name.startswith("lr-") and name.count("/") == 1]
    rates = {name: log("runs/demo/version_0", name) for name in columns}
    assert len(rates) == 4  # (backbone, rest) x (decay, no decay)
    for values in rates.values():
        assert len(values) == 8  # 2 epochs of 4 steps, each logged
        rising = [b > a for a, b in itertools.pairwise(values)]
        if shape == "down":
            assert values[:4] == [values[0]] * 4 and values[4:] == [pytest.approx(0.1 * values[0])] * 4
        else:
            assert rising[0] and not rising[-1] and sorted(rising, reverse=True) == rising
    highest = sorted(max(values) for values in rates.values())
    assert highest[0] == pytest.approx(highest[-1] / 10)


def test_views_are_classified_and_embedded_together(mlcl, demo):
    Path("own_loss.py").write_text(LOSS)
    short = ["--trainer.max_epochs", "1", "--test_after_fit", "false"]
    outcome = mlcl("fit", *demo, "--data.views", "2", "--model.embedding_loss", "own_loss.Pull", *short)
    assert outcome.status == 0, outcome.err


def test_every_loss_is_chosen_by_its_name(mlcl, demo):
    for name in ("AsymmetricLoss", "PolyLoss", "TwoWayLoss", "ZLPRLoss"):
        outcome = mlcl("fit", *demo, "--model.classification_loss", name, "--print_config")
        assert outcome.status == 0, outcome.err
        loss = yaml.safe_load(outcome.out)["model"]["classification_loss"]
        assert loss["class_path"] == f"mlcl.losses.{name}"


def test_by_steps_alone(mlcl, demo):
    outcome = mlcl("fit", *demo, "--trainer.max_epochs", "-1", "--trainer.max_steps", "8", "--test_after_fit", "false")
    assert outcome.status == 0, outcome.err


def test_the_printed_loss_does_not_depend_on_accumulation(mlcl, demo):
    outcome = mlcl("fit", *demo, "--trainer.max_epochs", "1", "--trainer.accumulate_grad_batches", "4")
    assert outcome.status == 0, outcome.err
    printed = float(outcome.err.split("loss ")[1].split()[0])
    assert printed > 0.4  # a mean binary cross-entropy at its start, not a quarter of it


def test_without_a_checkpoint_nothing_is_tested_and_that_is_said(mlcl, demo):
    outcome = mlcl("fit", *demo, "--trainer.enable_checkpointing", "false", "--trainer.max_epochs", "1")
    assert outcome.status == 0 and "so nothing is tested" in outcome.err


def test_a_dataset_of_the_users_with_any_constructor(mlcl, demo_root):
    Path("mydata.py").write_text(
        "from mlcl.data import Demo, MultiLabelDataModule\n"
        "class Mine(MultiLabelDataModule):\n"
        "    classes = Demo.classes\n"
        "    def __init__(self):\n"
        f"        super().__init__({str(demo_root)!r}, image_size=32, batch_size=16, num_workers=0)\n"
        f"        self.demo = Demo({str(demo_root)!r})\n"
        "    def read_split(self, split):\n"
        "        return self.demo.read_split(split)\n"
    )
    small = ["--model.network.backbone", "test_resnet", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    outcome = mlcl("fit", "--data", "mydata.Mine", *small, "--name", "mine")
    assert outcome.status == 0, outcome.err
    outcome = mlcl("test", "--ckpt_path", "last", "--name", "mine", "--import", "mydata")
    assert outcome.status == 0, outcome.err


@pytest.mark.upstream
def test_trap_lightning_save_last_is_not_the_last_epoch(mlcl, demo):
    """Lightning 2.6.6; when this fails, one ModelCheckpoint with save_last is enough."""
    Path("own_stop.py").write_text(
        STOPPER + "from lightning.pytorch.callbacks import ModelCheckpoint\n"
        "class Both(ModelCheckpoint):\n"
        "    def __init__(self):\n"
        "        super().__init__('stock', 'top', monitor='epoch', mode='min', save_last=True)\n"
    )
    assert ModelCheckpoint is not None
    assert mlcl("fit", *demo, "--trainer.callbacks+", "own_stop.Both", "--test_after_fit", "false").status == 0
    assert torch.load("stock/last.ckpt", weights_only=True)["epoch"] == 0


def test_frozen_statistics_do_not_move_in_a_training(mlcl, demo):
    """Lightning never calls ``train()`` itself: a module starts in the mode that it was made in (2.6.6)."""
    short = ["--trainer.max_epochs", "1", "--test_after_fit", "false"]
    outcome = mlcl("fit", *demo, "--model.network.freeze_stages", "2", *short)
    assert outcome.status == 0 and "eval mode" not in outcome.err, outcome.err
    stored = torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)["current_model_state"]
    steps = {k: int(v) for k, v in stored.items() if k.endswith("num_batches_tracked")}
    parts = ("network.backbone.bn1", "network.backbone.conv1", "network.backbone.layer1")
    frozen = {name for name in steps if name.startswith(parts)}
    assert frozen and all((steps[name] == 0) == (name in frozen) for name in steps), steps
    mean = next(name for name in frozen).replace("num_batches_tracked", "running_mean")
    assert not stored[mean].any()


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:.*does not have many workers")
def test_an_augmentation_that_is_not_finished_is_an_error(demo_root, tmp_path):
    """With ``augment_on: device`` a loader alone gives pictures that the datamodule would have finished."""
    from lightning import Trainer

    from mlcl.data import Demo
    from mlcl.errors import MlclError
    from mlcl.heads import GlobalPool
    from mlcl.module import MultiLabelModule
    from mlcl.network import Network

    settings = {"train_images": 80, "test_images": 25, "scene_size": 64, "image_size": 48, "num_workers": 0}
    data = Demo(str(demo_root), augment="flip", augment_on="device", **settings)
    data.setup()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", logger=False, default_root_dir=tmp_path, **quiet)
    with pytest.raises(MlclError, match="the augmentation is not finished"):
        trainer.fit(MultiLabelModule(Network("test_resnet", GlobalPool(), 12)), data.train_dataloader())
