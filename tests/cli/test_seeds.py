"""Several seeds in one command: each training is the one with that seed alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mlcl.cli import seeds
from mlcl.cli.verbs import UsageError

FAST = ["--model.network.freeze_stages", "all", "--data.cache", "features", "--data.augment", "none"]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork")


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_each_training_is_the_one_with_that_seed_alone(mlcl, demo, monkeypatch):
    flags = [*demo, *FAST, "--data.cache_dir", "cache", "--trainer.max_epochs", "1"]
    done = mlcl("fit", *flags, "--seeds", "[1, 4]")
    assert done.status == 0, done.err
    runs = [Path("runs/demo/version_0"), Path("runs/demo/version_1")]
    assert [yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] for run in runs] == [1, 4]
    assert all(word in done.out for word in ("seed 1", "seed 4", "to beat", "mean", "sd")), done.out
    mean = sum(json.loads((run / "metrics.json").read_text())["metrics"]["mAP"] for run in runs) / len(runs)
    assert f"mean {100 * mean:.2f} (sd" in done.out  # of the numbers themselves, not of those that the table rounds
    assert "seed 4: epoch   1/1" in done.err
    alone = mlcl("fit", *flags, "--seed_everything", "4", "--name", "alone")
    assert alone.status == 0, alone.err
    one, other = weights(runs[1]), weights(Path("runs/alone/version_0"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (runs[1] / "metrics.json").read_text().replace(str(runs[1]), "") == (
        Path("runs/alone/version_0/metrics.json").read_text().replace("runs/alone/version_0", "")
    )
    compared = mlcl("compare", "runs/demo", "runs/alone", "--output", "compared")
    assert compared.status == 0, compared.err


def test_learning_rates_have_names_of_their_own_and_one_that_fails_leaves_the_others(mlcl, demo):
    flags = [*demo, *FAST, "--data.cache_dir", "c", "--trainer.max_epochs", "1", "--test_after_fit", "false"]
    done = mlcl("fit", *flags, "--learning_rates", "[0.01,1e38]")
    assert done.status == 1 and "Traceback" not in done.err, done.err
    assert "lr 1e38: " in done.err and done.err.count("a cache of") == 2  # for both: train and val
    assert weights(Path("runs/demo_lr0.01/version_0"))
    config = yaml.safe_load(Path("runs/demo_lr0.01/version_0/config.yaml").read_text())
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.01


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds", "0"], "nothing would be trained"),
        (["--seeds", "20260131"], "one with that seed: --seeds [20260131]"),
        (["--seeds", "two"], "expected a number"),
        (["--seeds", "[1, 1]"], "different"),
        (["--learning_rates", "-1"], "expected a number"),
        (["--learning_rates", "[0.1, 0]"], "expected a number"),
        (["--seeds", "[4294967296]"], "expected a number"),
        (["--seeds", "2", "--seed_everything", "1"], "do not go together"),
        (["--seeds=2", "--ckpt_path", "last"], "do not go together"),
    ],
)
def test_what_cannot_be_is_a_wrong_command_line(mlcl, demo, flags, said):
    done = mlcl("fit", *demo, *flags)
    assert done.status == 2 and said in done.err and done.err.count("\n") == 1, done.err
    assert not Path("runs").exists()


def test_a_wrong_setting_leaves_no_folders(mlcl, demo):
    done = mlcl("fit", *demo, "--seeds", "2", "--seeds", "2", "--data.batch_size", "x")
    assert done.status == 2 and "batch_size" in done.err, done.err
    assert not [*Path("runs").glob("*/*")]


def test_all_variants_of_a_command_line(monkeypatch):
    found = seeds.variants(["--data", "Demo", "--seeds", "2", "--name", "x", "--learning_rates", "[1e-3, 0.1]"])
    assert [title for title, _ in found] == [f"seed {seed}, lr {rate}" for rate in ("1e-3", "0.1") for seed in (0, 1)]
    assert found[3].words == [
        *("--data", "Demo", "--name", "x", "--model.optimizer.lr", "0.1", "--name", "x_lr0.1"),
        *("--seed_everything", "1"),
    ]
    assert seeds.variants(["--data", "Demo"]) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun"):
        seeds.variants(["--seeds", "2"])


@pytest.mark.slow
def test_a_signal_ends_all_of_them(demo, tmp_path):
    command = [sys.executable, "-m", "mlcl", "fit", *demo, *FAST, "--trainer.max_epochs", "10000", "--seeds", "3"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        started = set()
        while len(started) < min(2, os.cpu_count() or 1):
            line = process.stderr.readline()
            assert line, "it ended"
            if "epoch   2/" in line:
                started.add(line.split(":")[0])
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 143, rest
    deadline = time.monotonic() + 15
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout
    assert "stopped by SIGTERM" in rest and "Traceback" not in rest, rest
