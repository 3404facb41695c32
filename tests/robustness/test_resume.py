"""A run that stopped and went on equals one that did not, bit for bit."""

from pathlib import Path

import pytest
import torch
from support.own_classes import LOSS, STOPPER


@pytest.mark.parametrize("workers", [0, 2])
def test_two_and_two_epochs_equal_four(mlcl, demo, tmp_path: Path, workers: int):
    Path("own_stop.py").write_text(STOPPER)
    Path("own_loss.py").write_text(LOSS)
    demo += ["--trainer.max_epochs", "4", "--data.num_workers", str(workers), "--model.network.head.dropout", "0.2"]
    demo += ["--model.embedding_loss", "own_loss.Pull", "--model.embedding_weight", "0.1", "--data.views", "2"]
    demo += ["--test_after_fit", "false"]
    whole = mlcl("fit", *demo, "--name", "whole")
    assert whole.status == 0, whole.err
    half = mlcl("fit", *demo, "--name", "half", "--trainer.callbacks+", "own_stop.StopAfter",
                "--trainer.callbacks.epochs", "2")  # fmt: skip
    assert half.status == 0, half.err
    rest = mlcl("fit", *demo, "--name", "half", "--ckpt_path", "last")
    assert rest.status == 0, rest.err

    assert not Path("runs/half/version_1").exists()  # continued in its own folder
    a, b = (torch.load(f"runs/{n}/version_0/checkpoints/last.ckpt", weights_only=True) for n in ("whole", "half"))
    assert a["epoch"] == b["epoch"] == 3
    for part in ("state_dict", "current_model_state"):  # the moving average, and the raw weights
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    rows = [Path(f"runs/{name}/version_0/metrics.csv").read_text().splitlines() for name in ("whole", "half")]
    assert rows[0] == rows[1]


def test_workers_change_nothing(mlcl, demo):
    for workers in ("0", "2"):
        done = mlcl("fit", *demo, "--name", f"w{workers}", "--data.num_workers", workers, "--test_after_fit", "false")
        assert done.status == 0, done.err
    a, b = (torch.load(f"runs/w{w}/version_0/checkpoints/last.ckpt", weights_only=True) for w in (0, 2))
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"])


def test_last_without_a_run_is_an_error(mlcl, demo):
    outcome = mlcl("fit", *demo, "--ckpt_path", "last")
    assert outcome.status == 1
    assert outcome.err.strip().count("\n") == 0 and "no run under" in outcome.err
    assert not Path("runs").exists()


def test_what_the_restored_optimizer_would_undo_is_refused(mlcl, demo):
    assert mlcl("fit", *demo, "--test_after_fit", "false").status == 0
    for flag, value in (("--model.optimizer.lr", "0.5"), ("--ema_decay", "null")):
        outcome = mlcl("fit", *demo, flag, value, "--ckpt_path", "last")
        assert outcome.status == 1 and "a run is continued as it was" in outcome.err
    done = mlcl("fit", *demo, "--ckpt_path", "last")
    assert done.status == 0 and "is at epoch 2 of 2: all is done" in done.err and "override" not in done.err


def test_more_epochs_under_one_cycle_are_refused_at_once(mlcl, demo):
    assert mlcl("fit", *demo, "--test_after_fit", "false").status == 0
    outcome = mlcl("fit", *demo, "--trainer.max_epochs", "3", "--ckpt_path", "last")
    assert outcome.status == 1
    assert "the same --trainer.max_epochs" in outcome.err.strip().splitlines()[-1]
    assert Path("runs/demo/version_0/checkpoints/last.ckpt").is_file()
