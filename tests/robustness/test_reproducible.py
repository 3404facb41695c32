"""The same seed, the same numbers: twice, with any number of workers, from a run's own config.yaml."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.lives import assert_same_run, sadcl

from mlcl.runs import provenance


def _without_callback(flags: list[str]) -> list[str]:
    return flags[: flags.index("--trainer.callbacks+")]


def test_a_run_is_repeated_bit_for_bit(mlcl, demo, tmp_path):
    """With every part that has a state; workers in another number; and from what its folder holds alone."""
    flags = _without_callback(sadcl(demo, tmp_path, 2))
    assert mlcl("fit", *flags, "--name", "first").status == 0
    repeat = mlcl("fit", "--config", "runs/first/version_0/config.yaml", "--data.num_workers", "4")
    assert repeat.status == 0 and "not the data" not in repeat.err, repeat.err
    assert_same_run(Path("runs/first/version_0"), Path("runs/first/version_1"))


@pytest.mark.slow
def test_other_data_are_told(mlcl, demo, demo_root, tmp_path):
    """By a repeat and by a run that goes on; the run goes on all the same."""
    shutil.copytree(demo_root, tmp_path / "data")
    flags = [*demo, "--data.root", "data", "--test_after_fit", "false", "--data.val_fraction", "0.25"]
    flags += ["--trainer.max_epochs", "1"]
    assert mlcl("fit", *flags).status == 0
    start = json.loads(Path("runs/demo/version_0/environment.json").read_text())[-1]
    assert set(start["data"]) == {"train", "val", "test"}
    changed = next(Path("data").glob("val2014/*"))  # the test images
    changed.write_bytes(changed.read_bytes() + b"\0")
    said = "warning: not the data of runs/demo/version_0: other files or labels in test; its numbers are not repeated"
    repeat = mlcl("fit", "--config", "runs/demo/version_0/config.yaml")
    assert repeat.status == 0 and repeat.err.splitlines().count(said) == 1, repeat.err
    further = mlcl("fit", *flags, "--ckpt_path", "runs/demo/version_0/checkpoints/last.ckpt")
    assert further.status == 0 and further.err.splitlines().count(said) == 1, further.err
    again = mlcl("fit", *flags, "--ckpt_path", "runs/demo/version_0/checkpoints/last.ckpt")
    assert said not in again.err


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    (tmp_path / "data").mkdir()
    paths = [tmp_path / "data" / f"{number}.jpg" for number in range(3)]
    for path in paths:
        path.write_bytes(b"0123")
    return paths


def test_the_fingerprint_knows_names_sizes_order_and_labels(images, tmp_path, monkeypatch):
    root, targets = tmp_path / "data", np.array([[1, 0], [0, -1], [1, 1]], dtype=np.int8)
    monkeypatch.chdir(tmp_path)
    known = provenance.fingerprint(images, targets, root)
    assert known == provenance.fingerprint([Path("data", path.name) for path in images], targets, Path("data"))
    shutil.copytree(root, tmp_path / "moved")
    moved = [tmp_path / "moved" / path.name for path in images]
    assert known == provenance.fingerprint(moved, targets, tmp_path / "moved")
    others = [
        provenance.fingerprint(images[::-1], targets, root),
        provenance.fingerprint(images, 0 * targets, root),
        provenance.fingerprint(images[:2], targets[:2], root),
        provenance.fingerprint(images, targets.reshape(2, 3), root),
    ]
    images[1].write_bytes(b"012345")
    others.append(provenance.fingerprint(images, targets, root))
    images[1].unlink()
    others.append(provenance.fingerprint(images, targets, root))
    assert len({known, *others}) == 7


def _git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_state_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "folder" not in provenance.code_state()
    _git(tmp_path, "init", "-q")
    assert "folder" not in provenance.code_state()  # no commit yet
    Path("file").write_text("a")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-q", "-m", "one")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    Path("untracked").write_text("a")  # as runs/ and data/ are
    assert provenance.code_state()["folder"] == {"commit": commit, "dirty": False}
    Path("file").write_text("b")
    assert provenance.code_state()["folder"] == {"commit": commit, "dirty": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_state() == {}


def test_a_git_that_fails_is_as_none(tmp_path, monkeypatch):
    tool = tmp_path / "git"
    tool.write_text("#!/bin/sh\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_state() == {}
    tool.write_text("no program")
    assert provenance.code_state() == {}


def test_what_is_no_record_of_data_is_none(tmp_path):
    assert provenance.recorded_data(tmp_path) == {}
    for text in ("", "{", "{}", "[]", "[1]", '[{"data": 3}]', '[{"started": "x"}]'):
        (tmp_path / "environment.json").write_text(text)
        assert provenance.recorded_data(tmp_path) == {}
    (tmp_path / "environment.json").write_text('[{"data": {"train": "a"}}, {"started": "x"}]')
    assert provenance.recorded_data(tmp_path) == {"train": "a"}
