"""Where loggers are put, and what of a checkpoint they may be made from."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from mlcl.callbacks import CSVLog, loggers
from mlcl.errors import MlclError
from mlcl.optim import make_optimizer
from mlcl.runs import trust

LOGGERS = "lightning.pytorch.loggers"
W = {"class_path": f"{LOGGERS}.WandbLogger"}
TB = {"class_path": f"{LOGGERS}.TensorBoardLogger"}
PLAIN = {"save_dir": ".", "offline": True, "project": "mlcl", "log_model": False, "prefix": "", "settings": None}


def checked(*settings):
    """As a checkpoint's record would have them; a list where there are several."""
    config = {"trainer": {"logger": settings[0] if len(settings) == 1 else list(settings)}}
    trust.check_classes(config, "x.ckpt")


def test_a_continued_run_may_log_as_it_did():
    tensorboard = {**TB, "init_args": {"save_dir": "runs/tensorboard", "name": "lightning_logs", "comment": ""}}
    checked({**W, "init_args": PLAIN})
    checked({**W, "init_args": PLAIN}, tensorboard)
    checked({"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": "runs", "version": None}})


@pytest.mark.parametrize(
    "settings",
    [
        {**W, "init_args": {**PLAIN, "settings": {"base_url": "http://evil"}}},  # the user's key would go there
        {**W, "init_args": {**PLAIN, "entity": "evil"}},
        {**W, "init_args": {**PLAIN, "dir": "/elsewhere"}},
        {**W, "init_args": {**PLAIN, "save_dir": "/elsewhere"}},
        {**W, "init_args": PLAIN, "dict_kwargs": {"entity": "evil"}},
        {**W, "init_args": PLAIN, "settings": {"base_url": "http://evil"}},
        {**W, "init_args": ["entity"]},
        {**TB, "init_args": {"save_dir": "runs/../../evil"}},
        {**TB, "init_args": {"save_dir": "runs", "name": "/evil"}},
        {**TB, "init_args": {"save_dir": "runs", "sub_dir": "../.."}},
        {"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": "runs", "version": 0}},
        {"class_path": f"{LOGGERS}.MLFlowLogger"},
    ],
)
def test_a_checkpoint_sends_nothing_elsewhere(settings):
    for given in ([settings], [{**W, "init_args": PLAIN}, settings]):
        with pytest.raises(MlclError, match="add --import"):
            checked(*given)


def test_no_class_hides_in_the_settings_of_a_logger():
    with pytest.raises(MlclError, match=r"os\.system"):
        checked({**W, "init_args": {**PLAIN, "tags": ["os.system"]}})


def test_loggers_lie_in_the_run(tmp_path):
    folder = tmp_path / "runs" / "demo_asl" / "version_3"
    text = [{**W, "init_args": {"offline": True}}, {**TB, "init_args": {"save_dir": "tb", "name": "lightning_logs"}}]
    made = loggers.make([WandbLogger(offline=True), TensorBoardLogger("tb")], text, folder, training=True)
    csv, wandb, tensorboard = made
    assert isinstance(csv, CSVLog)
    assert wandb.save_dir == str(folder)
    assert (wandb._wandb_init["name"], wandb._wandb_init["group"]) == ("demo_asl/version_3", "demo_asl")
    assert Path(tensorboard.log_dir) == Path("tb/demo_asl/version_3")
    later = loggers.make(WandbLogger(offline=True), text[0], folder / "test_0", training=False)
    assert [logger._wandb_init["group"] for logger in later] == ["demo_asl"]
    assert later[0]._wandb_init["name"] == "demo_asl/version_3/test_0"


def test_what_the_user_says_of_a_logger_holds(tmp_path):
    text = {**TB, "init_args": {"save_dir": "tb", "name": "lightning_logs", "version": 0}}
    (_, tensorboard) = loggers.make(TensorBoardLogger("tb", version=0), text, tmp_path / "runs/a/version_1", True)
    assert Path(tensorboard.log_dir) == Path("tb/lightning_logs/version_0")
    assert loggers.make(False, False, tmp_path, training=True) == []
    ours, own = loggers.make(CSVLogger(tmp_path), {"class_path": f"{LOGGERS}.CSVLogger"}, tmp_path, training=True)
    assert (type(ours), type(own)) == (CSVLog, CSVLogger)


@pytest.mark.parametrize(
    ("factors", "names"),
    [
        ({}, {"other", "other_no_decay"}),
        ({"backbone": 0.1}, {"backbone", "backbone_no_decay", "other", "other_no_decay"}),
        ({"backbone": 1.0}, {"backbone+other", "backbone+other_no_decay"}),
    ],
)
def test_learning_rates_are_named_by_part(factors, names):
    module = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    optimizer = make_optimizer(module, torch.optim.AdamW, factors)
    assert {group["name"] for group in optimizer.param_groups} == names


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--log_images", "-5"], 2, "--log_images"),
        (["--trainer.logger", "TensorBoardLogger"], 2, "--trainer.logger.save_dir is missing"),
        (["--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true", "--trainer.logger.project", "a/b"], 1,
         "Invalid project name"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(mlcl, demo, flags, status, said):
    result = mlcl("fit", *demo, *flags)
    last = result.err.strip().splitlines()[-1]
    assert result.status == status
    assert last.startswith("mlcl: ")
    assert said in last
    assert "offline true" not in last
    assert "Traceback" not in result.err


def test_steps_that_are_never_logged_have_no_norms(mlcl, demo):
    short = ("--trainer.max_epochs", "1", "--test_after_fit", "false")
    assert mlcl("fit", *demo, *short, "--trainer.log_every_n_steps", "0").status == 0


@pytest.mark.upstream
def test_trap_lightning_always_sends_two_settings_that_wandb_warns_about():
    """Lightning 2.6.6 with wandb 0.31; when this fails, look at what ``WandbLog`` takes out of ``_wandb_init``."""
    sent = WandbLogger(offline=True)._wandb_init
    assert sent["anonymous"] is None and sent["project"] == "lightning_logs"
