"""A few hundred bytes of YAML aliases that stand for millions of values are refused by every verb that reads them."""

import json
import shutil

import pytest
import torch

from mlcl.report.findings import gather

# 9 ** 7 values; small enough that another program, which wrote them all out, would only be slow.
TREE = "l0: &l0 x\n" + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 8))
CHECKPOINT = {
    "fit": [],
    "validate": [],
    "test": [],
    "predict": ["--images", ".", "--output", "p.csv"],
    "calibrate": ["--output", "c.ckpt"],
    "export": ["--format", "torch_export", "--output", "m.pt2"],
}


def write_checkpoint(path):
    torch.save({"state_dict": {}, "mlcl": {"format": 1, "classes": ["cat"], "config": TREE}}, path)


@pytest.mark.parametrize("verb", CHECKPOINT)
def test_as_the_record_of_a_checkpoint(mlcl, verb, tmp_path):
    write_checkpoint("given.ckpt")
    outcome = mlcl(verb, "--ckpt_path", "given.ckpt", *CHECKPOINT[verb])
    assert outcome.status == 1 and outcome.err.count("\n") == 1, outcome.err
    assert "given.ckpt" in outcome.err and "more than 1,000,000 values" in outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"given.ckpt"}


@pytest.fixture
def run(trained, tmp_path):
    """A run whose config.yaml is such a tree, and whose checkpoint is gone."""
    folder = tmp_path / "runs" / "a" / "version_0"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoints", "test_*"))
    (folder / "config.yaml").write_text(TREE)
    summary = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**summary, "checkpoint": "checkpoints/best.ckpt"}))
    return folder


def test_as_the_config_of_a_run_that_is_compared(mlcl, run):
    shutil.copytree(run, "runs/b/version_0")
    outcome = mlcl("compare", "runs/a", "runs/b")
    assert outcome.status == 1 and outcome.err.count("\n") == 1, outcome.err
    assert "config.yaml: more than 1,000,000 values" in outcome.err


def test_what_a_report_shows_does_without_what_needs_them(run, demo_root):
    assert any("no pictures" in note for note in gather(run).evidence.notes)
    (run / "checkpoints").mkdir()
    write_checkpoint(run / "checkpoints" / "best.ckpt")
    assert any("more than 1,000,000 values" in note for note in gather(run, str(demo_root)).evidence.notes)


@pytest.mark.slow
def test_a_report_does_without_what_needs_them(mlcl, run, demo_root):
    outcome = mlcl("report", run)
    assert outcome.status == 0 and "no pictures" in outcome.err, outcome.err
    (run / "checkpoints").mkdir()
    write_checkpoint(run / "checkpoints" / "best.ckpt")
    outcome = mlcl("report", run, "--data.root", demo_root)
    assert outcome.status == 0 and "more than 1,000,000 values" in outcome.err, outcome.err
