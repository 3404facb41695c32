"""mlcl predict from an ONNX file: what the checkpoint says, in a process that cannot import torch."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support.trees import picture

from mlcl.inference.onnx_file import OnnxFile

HEAVY = ("torch", "torchvision", "timm", "lightning", "scipy", "sklearn", "matplotlib", "yaml", "jsonargparse", "rich")
SCRIPT = """
import json, sys
for name in json.loads(sys.argv[1]): sys.modules[name] = None  # importing it is an error
from mlcl.__main__ import main
before = set(sys.modules)
status = main(sys.argv[2:])
print(json.dumps([status, sorted({name.split(".")[0] for name in sys.modules if sys.modules[name]})]))
"""


def write_odd_pictures(folder: Path) -> None:
    """Every mode, 16 bits, a rotation by EXIF, and two that cannot be read."""
    folder.mkdir()
    for mode in ("1", "L", "LA", "RGB", "RGBA", "P"):
        picture(70, 50).convert(mode).save(folder / f"{mode}.png")
    for mode in ("L", "RGB", "CMYK"):
        picture(50, 70).convert(mode).save(folder / f"{mode}.jpg")
    Image.fromarray(np.arange(2500, dtype=np.uint16).reshape(50, 50) * 26).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(61, 37).save(folder / "turned.jpg", exif=exif)
    picture(20, 20).save(folder / "small.webp", lossless=True)
    (folder / "text.jpg").write_text("no picture")
    (folder / "cut.jpg").write_bytes((folder / "RGB.jpg").read_bytes()[:300])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_alike(ours: Path, theirs: Path) -> None:
    """The same images and labels, scores within 1e-3."""
    ours, theirs = rows_of(ours), rows_of(theirs)
    assert [(row["path"], row["labels"]) for row in ours] == [(row["path"], row["labels"]) for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        scores = [[float(value) for value in list(each.values())[2:]] for each in (row, other)]
        np.testing.assert_allclose(*scores, atol=1e-3, rtol=1e-2)  # a class's scores are 1e-14


def test_it_says_what_the_checkpoint_says_without_torch(mlcl, calibrated_low, exported, demo_root, tmp_path):
    write_odd_pictures(tmp_path / "odd")
    common = ["predict", "--images", "odd", str(demo_root / "val2014"), "--batch_size", "5", "--output"]
    expected = mlcl(*common, "a.csv", "--ckpt_path", calibrated_low, "--num_workers", "0", "--accelerator", "cpu")
    arguments = [json.dumps(HEAVY), *common, "b.csv", "--ckpt_path", str(exported[0])]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status, modules = json.loads(done.stdout)
    assert status == expected.status == 1
    assert not {*modules} & {*HEAVY} and {"onnxruntime", "numpy", "PIL"} <= {*modules}
    lines = [[line for line in said.splitlines() if "not read" in line] for said in (done.stderr, expected.err)]
    assert len(lines[0]) == 2 and lines[0] == lines[1]
    assert_alike(tmp_path / "b.csv", tmp_path / "a.csv")
    assert len({row["labels"] for row in rows_of(tmp_path / "b.csv")}) > 3


def test_the_same_options(mlcl, calibrated_low, exported, tmp_path):
    """--top, .jsonl, --white, --max_pixels: the same lines from both."""
    (tmp_path / "in").mkdir()
    Image.fromarray(np.arange(2500, dtype=np.uint16).reshape(50, 50)).save(tmp_path / "in" / "dark.png")
    picture(40, 40).save(tmp_path / "in" / "a.png")
    (tmp_path / "list.txt").write_text("in/a.png\nin/d*.png\n")
    outcomes, written = [], []
    for source in (calibrated_low, exported[0]):
        outcome = mlcl("predict", "--ckpt_path", source, "--images", "@list.txt", "--top", "3", "--output", "o.jsonl",
                       "--white", "4095", "--max_pixels", "2000", "--num_workers", "0")  # fmt: skip
        outcomes.append((outcome.status, [line for line in outcome.err.splitlines() if "images/s" not in line]))
        written.append([json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()])
    assert outcomes[0] == outcomes[1] and outcomes[0][0] == 1 and "--max_pixels N" in outcomes[0][1][0]
    ours, theirs = written[1][0], written[0][0]
    assert (ours["path"], ours["labels"], [*ours["scores"]]) == (theirs["path"], theirs["labels"], [*theirs["scores"]])
    outcome = mlcl("predict", "--ckpt_path", exported[0], "--images", "in", "--writer", "voc2012", "--output", "voc")
    assert outcome.status == 1 and "--writer voc2012: the model does not know" in outcome.err


@pytest.mark.parametrize("wrong", ["--precision bf16-mixed", "--devices 2", "--accelerator gpu", "--import mine"])
def test_what_only_a_checkpoint_can(mlcl, exported, demo_root, wrong):
    images = demo_root / "val2014"
    outcome = mlcl("predict", "--ckpt_path", exported[0], "--images", images, "--output", "o.csv", *wrong.split())
    assert outcome.status == 2 and outcome.err == (
        f"mlcl: {wrong}: an ONNX file is run on the CPU as it is; this needs the checkpoint\n"
    )


def changed(source: Path, target: Path, **metadata: str | None) -> Path:
    """The file with other metadata, or without an entry."""
    proto = onnx.load(source)
    stored = {each.key: each.value for each in proto.metadata_props} | metadata
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {key: value for key, value in stored.items() if value is not None})
    onnx.save(proto, target)
    return target


def test_files_that_are_not_ours_or_damaged(mlcl, exported, demo_root, monkeypatch, tmp_path):
    """One line each, and nothing is written."""
    source = exported[0]
    (tmp_path / "cut.onnx").write_bytes(source.read_bytes()[:5000])
    (tmp_path / "empty.onnx").touch()
    shutil.copy(source, tmp_path / "m.pt2")
    said = "was not written by mlcl export"
    cases = {
        "cut.onnx": (1, "no ONNX file, or damaged"), "empty.onnx": (1, "no ONNX file, or damaged"),
        "m.pt2": (2, "predict runs checkpoints and .onnx files"),
    }  # fmt: skip
    for number, (key, value) in enumerate([("classes", None), ("thresholds", "[0.5]"), ("image_size", "64"),
                                           ("interpolation", "odd"), ("white", "x")]):  # fmt: skip
        changed(source, tmp_path / f"{number}.onnx", **{key: value})
        cases[f"{number}.onnx"] = (1, said)
    for name, (status, words) in cases.items():
        outcome = mlcl("predict", "--ckpt_path", name, "--images", demo_root / "val2014", "--output", "o.csv")
        assert outcome.status == status and words in outcome.err and outcome.err.count("\n") == 1, (name, outcome.err)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = mlcl("predict", "--ckpt_path", source, "--images", demo_root / "val2014", "--output", "o.csv")
    assert outcome.status == 1 and "onnxruntime is missing: pip install onnxruntime" in outcome.err
    assert not os.path.exists("o.csv") and not os.path.exists("o.csv.partial")


def test_scores_that_are_not_numbers(mlcl, exported, demo_root, monkeypatch):
    monkeypatch.setattr(OnnxFile, "probabilities", lambda self, pixels: [[np.nan] * len(self.classes)] * len(pixels))
    outcome = mlcl("predict", "--ckpt_path", exported[0], "--images", demo_root / "val2014", "--output", "o.csv")
    assert outcome.status == 1 and "scores are not numbers" in outcome.err and not os.path.exists("o.csv")
