"""A run that stopped and went on equals one that did not, bit for bit."""

import shutil
from pathlib import Path

import pytest
import torch
from support.own_classes import LOSS, STOPPER


def test_two_and_two_epochs_equal_four(mlcl, demo):
    """With any number of loader's processes in each part, hidden labels, and a memory of their corrections."""
    Path("own_stop.py").write_text(STOPPER)
    Path("own_loss.py").write_text(LOSS)
    demo += ["--trainer.max_epochs", "4", "--model.network.head.dropout", "0.2", "--test_after_fit", "false"]
    demo += ["--model.embedding_loss", "own_loss.Pull", "--model.embedding_weight", "0.1", "--data.views", "2"]
    demo += ["--data.known_share", "0.5", "--model.unknown", "large_loss_permanent", "--model.unknown_weight", "0.02"]
    whole = mlcl("fit", *demo, "--name", "whole")
    assert whole.status == 0, whole.err
    half = mlcl("fit", *demo, "--name", "half", "--trainer.callbacks+", "own_stop.StopAfter",
                "--trainer.callbacks.epochs", "2", "--data.num_workers", "2")  # fmt: skip
    assert half.status == 0, half.err
    other = mlcl("fit", *demo, "--name", "half", "--ckpt_path", "last", "--data.split_seed", "1")
    assert other.status == 1 and "or other images" in other.err, other.err
    rest = mlcl("fit", *demo, "--name", "half", "--ckpt_path", "last", "--data.num_workers", "1")
    assert rest.status == 0, rest.err

    assert not Path("runs/half/version_1").exists()  # continued in its own folder
    a, b = (torch.load(f"runs/{n}/version_0/checkpoints/last.ckpt", weights_only=True) for n in ("whole", "half"))
    assert a["epoch"] == b["epoch"] == 3
    for part in ("state_dict", "current_model_state"):  # the moving average, and the raw weights
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    entries = [stored["callbacks"]["UnknownLabels"]["entries"] for stored in (a, b)]
    assert torch.equal(*entries) and len(entries[0]) > 8 and "known_share 0.5: " in whole.err
    rows = [Path(f"runs/{name}/version_0/metrics.csv").read_text().splitlines() for name in ("whole", "half")]
    assert rows[0] == rows[1]


def test_last_without_a_run_is_an_error(mlcl, demo):
    outcome = mlcl("fit", *demo, "--ckpt_path", "last")
    assert outcome.status == 1
    assert outcome.err.strip().count("\n") == 0 and "no run under" in outcome.err
    assert not Path("runs").exists()


@pytest.fixture
def go_on(mlcl, demo, trained: Path):
    """Continue a copy of a finished run, with more flags."""
    shutil.copytree(trained, "runs/demo/version_0")
    same = ["--data.val_fraction", "0.25", "--model.optimizer.lr", "0.01", "--test_after_fit", "false"]
    return lambda *flags: mlcl("fit", *demo, *same, *flags, "--ckpt_path", "last")


def test_what_the_restored_optimizer_would_undo_is_refused(go_on):
    for flag, value in (("--model.optimizer.lr", "0.5"), ("--ema_decay", "null")):
        outcome = go_on(flag, value)
        assert outcome.status == 1 and flag.removeprefix("--") in outcome.err.strip().splitlines()[-1]
    done = go_on()
    assert done.status == 0 and "all is done" in done.err and "override" not in done.err, done.err


def test_more_epochs_under_one_cycle_are_refused_at_once(go_on):
    outcome = go_on("--trainer.max_epochs", "3")
    assert outcome.status == 1
    assert "--trainer.max_epochs" in outcome.err.strip().splitlines()[-1]
    assert Path("runs/demo/version_0/checkpoints/last.ckpt").is_file()
