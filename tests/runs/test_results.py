"""Reading results back: whatever happened to the files, one line names the folder and says what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.saved_runs import small_run

from mlcl.errors import MlclError
from mlcl.runs import results


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_run("a/version_0")


def change(run: Path, **arrays) -> None:
    with np.load(run / "scores.npz") as file:
        before = dict(file)
    np.savez_compressed(run / "scores.npz", **{**before, **arrays})


def test_it_reads_what_was_written(run):
    found = results.read(run)
    assert found.logits.shape == (30, 3) and found.split == "test" and found.temperature == 1
    assert found.classes == ["class 0", "class 1", "class 2"] and found.thresholds.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.npz", b""),
        ("scores.npz", b"PK\x03\x04 and nothing more"),
        ("scores.npz", "half"),
        ("scores.npz", "flipped"),
        ("metrics.json", b""),
        ("metrics.json", b"[]"),
        ("metrics.json", b'{"split": "test"}'),
        ("metrics.json", b'{"split": "test", "definitions": 3}'),
        ("metrics.json", b"\xff\xfe"),
    ],
)
def test_damaged_files(run, name, content):
    whole = (run / name).read_bytes()
    if content == "half":
        content = whole[: len(whole) // 2]
    elif content == "flipped":
        content = bytes(byte ^ 0x55 if 100 < n < 400 else byte for n, byte in enumerate(whole))
    (run / name).write_bytes(content)
    with pytest.raises(MlclError, match=r"runs/a/version_0: its results cannot be read \(.+\); run mlcl test again"):
        results.read(run)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"logits": np.zeros((29, 3), np.float32)}, "targets of shape (30, 3) beside logits of shape (29, 3)"),
        ({"logits": np.zeros((0, 3), np.float32)}, "logits of shape (0, 3)"),
        ({"thresholds": np.full(2, 0.5)}, "thresholds of shape (2,)"),
        ({"thresholds": np.full(3, 1.5)}, "a threshold outside [0, 1]"),
        ({"temperature": np.float64(0)}, "a temperature of 0 or below"),
        ({"images": np.array(["a.jpg"])}, "1 names for 30 images"),
        ({"classes": np.array(["a", "b"])}, "classes of shape (2,)"),
        ({"logits": np.full((30, 3), np.nan, np.float32)}, "logits that are no finite numbers"),
        ({"targets": np.full((30, 3), 7, np.int8)}, "targets other than 1, 0 and -1"),
    ],
)
def test_arrays_that_do_not_belong_together(run, arrays, words):
    change(run, **arrays)
    with pytest.raises(MlclError) as caught:
        results.read(run)
    assert "runs/a/version_0: its results cannot be used: " in str(caught.value) and words in str(caught.value)


def test_definitions_and_missing_files(run, mlcl):
    summary = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**summary, "definitions": {"threshold": [1]}}))
    with pytest.raises(MlclError, match=r"the definition of threshold in metrics\.json"):
        results.read(run)
    shutil.copytree(run, "runs/b/version_0")
    for verb in (["report", "runs/a"], ["compare", "runs/a", "runs/b"]):
        outcome = mlcl(*verb)
        assert outcome.status == 1 and outcome.err.startswith("mlcl: runs/a/version_0: its results cannot be used")
    (run / "metrics.json").unlink()
    with pytest.raises(MlclError, match=r"metrics\.json: no such file; run mlcl test again"):
        results.read(run)
