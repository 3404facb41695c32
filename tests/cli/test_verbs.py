"""The verbs with a parser of their own: help and mistakes are answered before torch is imported, in one line."""

import time

import pytest
from support.running import at_once

from mlcl.cli import verbs


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_help(verb, tmp_path):
    done = at_once(verb, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: mlcl {verb}" in done.stdout and max(map(len, done.stdout.splitlines())) <= 110
    assert verb in at_once("--help", cwd=tmp_path).stdout


PREDICT = ["predict", "--ckpt_path", "x.ckpt", "--images", ".", "--output"]
MISTAKES = [
    (["predict"], "predict: the following arguments are required: --ckpt_path, --images, --output; mlcl predict"),
    ([*PREDICT, "o.csv", "--ouput", "x"], "predict: unknown option --ouput (did you mean --output?)"),
    ([*PREDICT, "o.csv", "--top", "0"], "argument --top: expected a whole number of at least 1, got '0'"),
    ([*PREDICT, "o.csv", "--batch_size", "many"], "--batch_size: expected a whole number of at least 1, got 'many'"),
    ([*PREDICT, "o.txt"], "--output o.txt: the name must end in .csv or .jsonl"),
    ([*PREDICT, "folder.csv"], "--output folder.csv is a folder; give a file"),
    ([*PREDICT, "o", "--writer", "voc2012", "--top", "3"], "--top: the files of --writer voc2012 hold every score"),
    ([*PREDICT, "o", "--writer", "voc2007"], "argument --writer: invalid choice: 'voc2007'"),
    (["predict", "--ckpt_path", "y.ckpt", "--images", ".", "--output", "o.csv"], "--ckpt_path y.ckpt: no such file"),
    (["predict", "--ckpt_path", ".", "--images", ".", "--output", "o.csv"], "no run with a checkpoints/best.ckpt in"),
    (["predict", "--ckpt_path", "last", "--images", ".", "--output", "o.csv"], "--ckpt_path last: no run under"),
    (["predict", "--ckpt_path", "x.ckpt", "--images", "nowhere", "--output", "o.csv"], "--images nowhere: no"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--target", "precision"], "expected f1, precision=0.9 or recall=0.9, got"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--target", "recall=7"], "expected a number between 0 and 1, got '7'"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--shrink", "-1"], "argument --shrink: expected"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--output", "x.ckpt"], "--output x.ckpt is the checkpoint itself"),
    (["export", "--ckpt_path", "x.ckpt", "--format", "onnx", "--output", "x.pt2"], "the name must end in .onnx"),
    (["export", "--ckpt_path", "x.ckpt", "--output", "x.pt2"], "the following arguments are required: --format"),
    (["report", "nowhere"], "nowhere"),
    (["compare", "nowhere", "here"], "nowhere"),
    (["predict", "--ckpt_path", "x.ckpt", "--images", ".", "--output", "o.csv", "--seed"], "unknown option --seed"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_mistakes(arguments, words, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"")
    (tmp_path / "folder.csv").mkdir()
    done = at_once(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("mlcl: ") and words in done.stderr


def test_a_file_that_is_no_checkpoint(mlcl, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"nothing")
    for arguments in (["calibrate"], ["export", "--format", "onnx", "--output", "o.onnx"]):
        outcome = mlcl(*arguments, "--ckpt_path", "x.ckpt")
        assert outcome.status == 1 and outcome.err.startswith("mlcl: x.ckpt is no checkpoint, or damaged")


def test_mistakes_are_fast(tmp_path):
    """No import of torch, which alone takes longer; the best of three, since the machine may be busy."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        at_once("predict", "--ouput", "x", cwd=tmp_path)
        times.append(time.perf_counter() - started)
    assert min(times) < 1
