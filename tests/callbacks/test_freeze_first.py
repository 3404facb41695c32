"""The head alone in the first epochs, then the whole network: what moves when, and after a resume."""

import csv
import math
from pathlib import Path

import pytest
import torch
from support.lives import assert_equal
from support.own_classes import STOPPER
from support.step_parts import batch, module

from mlcl.callbacks.freeze_first import FreezeFirst

# A callback of a user's that keeps the weights of every epoch's end.
NOTES = """
import torch
from lightning import Callback
class Notes(Callback):
    def on_train_start(self, trainer, module):
        torch.save(module.state_dict(), "epoch0.pt")
    def on_train_epoch_end(self, trainer, module):
        torch.save(module.state_dict(), f"epoch{trainer.current_epoch + 1}.pt")
"""
QUICK = ["--test_after_fit", "false", "--model.optimizer.weight_decay", "0.5", "--trainer.log_every_n_steps", "1"]


def moved(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_backbone_stays_as_it_is_then_it_is_trained(mlcl, demo):
    """Its weights, which weight decay would shrink, and its statistics."""
    Path("own_notes.py").write_text(NOTES)
    flags = [*QUICK, "--model.lr_mult", "{backbone: 0.1}", "--trainer.callbacks+", "own_notes.Notes"]
    done = mlcl("fit", *demo, *flags, "--model.network.freeze_epochs", "1", "--model.network.freeze_stages", "2")
    assert done.status == 0 and "warning: the backbone" not in done.err, done.err
    states = [torch.load(f"epoch{number}.pt", weights_only=True) for number in range(3)]
    first, second = moved(*states[:2]), moved(*states[1:])
    assert first and not any(name.startswith("network.backbone.") for name in first)
    assert {name for name in states[0] if name.startswith("network.head.")} <= first
    for_good = ("conv1", "bn1", "layer1")
    backbone = {name.removeprefix("network.backbone.") for name in second if name.startswith("network.backbone.")}
    assert any("running_mean" in name for name in backbone) and any("conv" in name for name in backbone)
    assert not any(name.startswith(for_good) for name in backbone), backbone
    rows = list(csv.DictReader(Path("runs/demo/version_0/metrics.csv").read_text().splitlines()))
    norms = [int(row["epoch"]) for row in rows if row["gradient/backbone"]]
    assert set(norms) == {1}
    tested = mlcl("test", "--ckpt_path", "last", "--name", "demo")
    assert tested.status == 0 and "overrides" not in tested.err, tested.err


@pytest.mark.slow
def test_a_resume_within_and_right_after_equals_a_run_never_stopped(mlcl, demo):
    Path("own_stop.py").write_text(STOPPER)
    flags = [*demo, *QUICK, "--model.network.freeze_epochs", "2", "--trainer.max_epochs", "3", "--ema_decay", "0.9"]
    flags += ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    whole = mlcl("fit", *flags, "--name", "whole")
    assert whole.status == 0, whole.err
    again: list[str] = []
    for epochs in (1, 2, 3):
        stop = ["--trainer.callbacks+", "own_stop.StopAfter", "--trainer.callbacks.epochs", str(epochs)]
        part = mlcl("fit", *flags, "--name", "parts", *stop, *again)
        assert part.status == 0, part.err
        again = ["--ckpt_path", "last"]
    a, b = (torch.load(f"runs/{n}/version_0/checkpoints/last.ckpt", weights_only=True) for n in ("whole", "parts"))
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "epoch"):
        assert_equal(a[part], b[part], part)


@pytest.mark.slow
def test_with_a_backbone_that_is_frozen_for_good_it_changes_nothing(mlcl, demo):
    flags = [*demo, *QUICK, "--model.network.freeze_stages", "all", "--ema_decay", "0.9", "--trainer.max_epochs", "2"]
    flags += ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    for name, epochs in (("one", "1"), ("none", "0")):
        done = mlcl("fit", *flags, "--name", name, "--model.network.freeze_epochs", epochs)
        assert done.status == 0, done.err
    a, b = (torch.load(f"runs/{n}/version_0/checkpoints/last.ckpt", weights_only=True) for n in ("one", "none"))
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert_equal(a[part], b[part], part)


@pytest.mark.parametrize(
    ("epochs", "status", "said"),
    [("-1", 1, "freeze_epochs is -1"), ("1.5", 2, "freeze_epochs"), ("2", 0, "not trained at all")],
)
def test_a_number_of_epochs_that_is_none_is_refused_and_all_of_them_is_said(mlcl, demo, epochs, status, said):
    short = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", *QUICK]
    done = mlcl("fit", *demo, *short, "--model.network.freeze_epochs", epochs)
    assert done.status == status and said in done.err, done.err
    assert ("not trained at all" in done.err) == (epochs == "2") and "Traceback" not in done.err
    if status:
        assert done.err.strip().count("\n") == 0 and not Path("runs").exists()


def test_a_training_that_failed_in_the_frozen_epochs_leaves_nothing_frozen():
    made, callback = module(), FreezeFirst()
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    callback.hold(made.network, True)
    assert not any(p.requires_grad for p in made.network.backbone.parameters())
    made.train()
    assert not any(part.training for part in made.network.backbone.modules()) and made.network.head.training
    callback.setup(None, made, "fit")
    assert {name for name, parameter in made.named_parameters() if parameter.requires_grad} == trained
    assert all(part.training for part in made.network.backbone.modules())


@pytest.mark.slow
def test_a_compiled_network_learns_that_the_backbone_is_trained_again():
    torch.compiler.reset()
    made, callback = module(), FreezeFirst()
    made.network.compile(backend="aot_eager")
    image = batch()["image"].flatten(0, 1)
    for held in (True, False):
        callback.hold(made.network, held)
        made.zero_grad()
        made.network(image).logits.sum().backward()
        norms = [p.grad for p in made.network.backbone.parameters() if p.grad is not None]
        assert bool(norms) != held and all(math.isfinite(float(norm.sum())) for norm in norms)
    torch.compiler.reset()
