"""``pos_weight`` from the command line: counted in the training split, kept by a resume, wrong lengths refused."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer
from support.own_classes import STOPPER

from mlcl.data import Demo
from mlcl.errors import MlclError
from mlcl.heads import GlobalPool
from mlcl.losses import BinaryCrossEntropy
from mlcl.module import MultiLabelModule
from mlcl.network import Network

KEY = "--model.classification_loss.pos_weight"
SHORT = ["--test_after_fit", "false", "--data.val_fraction", "0.25", "--trainer.limit_train_batches", "2"]
QUIET = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
QUIET |= {"enable_progress_bar": False, "enable_model_summary": False}


def last(name: str) -> dict:
    return torch.load(f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
def test_auto_equals_the_counted_numbers_and_a_resume_is_exact(mlcl, demo, demo_root):
    Path("own_stop.py").write_text(STOPPER)
    assert mlcl("fit", *demo, *SHORT, KEY, "auto", "--name", "whole").status == 0
    data = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, val_fraction=0.25)
    data.read_splits()
    targets = torch.from_numpy(data.splits["train"].targets)
    present, absent = (targets == 1).sum(0), (targets == 0).sum(0)
    numbers = torch.where((present > 0) & (absent > 0), absent / present.clamp(min=1), 1.0).tolist()
    assert mlcl("fit", *demo, *SHORT, KEY, str(numbers), "--name", "counted").status == 0
    stop = ["--trainer.callbacks+", "own_stop.StopAfter", "--trainer.callbacks.epochs", "1"]
    assert mlcl("fit", *demo, *SHORT, KEY, "auto", "--name", "parts", *stop).status == 0
    rest = mlcl("fit", *demo, *SHORT, KEY, "auto", "--name", "parts", "--ckpt_path", "last")
    assert rest.status == 0 and "pos_weight: from " in rest.err, rest.err
    whole, counted, parts = (last(name) for name in ("whole", "counted", "parts"))
    for part in ("state_dict", "current_model_state"):
        for name, tensor in whole[part].items():
            assert torch.equal(tensor, counted[part][name]) and torch.equal(tensor, parts[part][name]), name
    config = yaml.safe_load(Path("runs/whole/version_0/config.yaml").read_text())
    assert config["model"]["classification_loss"]["init_args"]["pos_weight"] == "auto"
    other = mlcl("fit", *demo, *SHORT, KEY, "2", "--name", "parts", "--ckpt_path", "last")
    assert other.status == 1 and "a run is continued as it was" in other.err and "pos_weight" in other.err


def test_auto_without_a_datamodule_says_what_it_needs():
    module = MultiLabelModule(Network("test_resnet", GlobalPool(), 12), BinaryCrossEntropy(pos_weight="auto"))
    batch = {"image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "target": torch.ones(2, 12, dtype=torch.int8)}
    with pytest.raises(MlclError, match="give numbers"):
        Trainer(**QUIET).fit(module, [batch], [batch])


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ("[1, 2]", 1, "model.classification_loss.pos_weight has 2 numbers, there are 12 classes"),
        ("0", 1, "BinaryCrossEntropy: pos_weight must be"),
        ("many", 2, "pos_weight: expected a number or a list or 'auto', got 'many'"),
    ],
)
def test_wrong_weights_are_one_line(mlcl, demo, value, status, words):
    outcome = mlcl("fit", *demo, KEY, value)
    last_line = outcome.err.strip().splitlines()[-1]
    assert outcome.status == status and last_line.startswith("mlcl: ") and words in last_line, outcome.err
    assert not list(Path().glob("runs/*/*"))
