"""mlcl export: both formats, every head, read back in a process that has no mlcl."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcl import runs
from mlcl.heads import HEADS
from mlcl.inference import Model, export, load
from mlcl.inference.export import Exported
from mlcl.network import Network

READER = """
import json, sys
import numpy as np
sys.modules["mlcl"] = None  # importing it is an error
path, pixels = sys.argv[1], np.load("pixels.npy")
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    meta = session.get_modelmeta().custom_metadata_map
    meta = {key: json.loads(meta[key]) for key in ("classes", "thresholds", "image_size")}
    out = session.run(None, {session.get_inputs()[0].name: pixels})[0]
else:
    import torch
    extra = {"mlcl.json": ""}
    program = torch.export.load(path, extra_files=extra)
    meta = json.loads(extra["mlcl.json"])
    out = program.module()(torch.from_numpy(pixels)).detach().numpy()
np.save("out.npy", out)
print(json.dumps({key: meta[key] for key in ("classes", "thresholds", "image_size")}))
"""


@pytest.fixture(scope="module")
def calibrated(trained, tmp_path_factory) -> Path:
    from mlcl.inference.calibration import calibrate

    path = tmp_path_factory.mktemp("calibrated") / "c.ckpt"
    calibrate(runs.best_checkpoint(trained), path, accelerator="cpu", changes={"num_workers": 0})
    return path


@pytest.mark.parametrize(("kind", "name"), [("onnx", "m.onnx"), ("torch_export", "m.pt2")])
def test_it_is_read_without_mlcl(mlcl, calibrated, demo_root, kind, name, tmp_path):
    outcome = mlcl("export", "--ckpt_path", calibrated, "--format", kind, "--output", name)
    assert outcome.status == 0, outcome.err
    assert "checked on 24 images, 16 of them real, largest difference" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    model = load(calibrated, "cpu")
    paths = sorted((demo_root / "val2014").glob("*.jpg"))
    np.save("pixels.npy", torch.stack([model.preprocess(path) for path in paths]).numpy())
    done = subprocess.run([sys.executable, "-c", READER, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    meta, scores = json.loads(done.stdout), np.load("out.npy")
    assert meta == {"classes": list(model.classes), "thresholds": model.thresholds.tolist(), "image_size": 48}
    out = model(paths)
    np.testing.assert_allclose(scores, out.scores.numpy(), atol=1e-4)
    labels = [[meta["classes"][k] for k in np.flatnonzero(row >= meta["thresholds"])] for row in scores]
    assert labels == out.labels


SOON = ("SemanticAttention", "QueryDecoder")  # ONNX for the others: make test-slow
EVERY = [
    pytest.param(head, kind, marks=pytest.mark.slow if kind == "onnx" and head not in SOON else ())
    for head in HEADS
    for kind in ("onnx", "torch_export")
]


@pytest.mark.parametrize(("head", "kind"), EVERY)
def test_every_head(head, kind, tmp_path):
    torch.manual_seed(0)
    settings = {"dim": 16} if head in ("SemanticAttention", "QueryDecoder", "LabelAttention", "MLDecoder") else {}
    network = Network("test_resnet", HEADS[head](**settings), 5).eval()
    model = Model(network, "abcde", [0.5] * 5, 1.7, 48, "bilinear", Path("none"))
    write, read = export._FORMATS[kind]
    pixels = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8)
    wrapped = Exported(model).eval()
    export.written(wrapped, pixels[:2], export.metadata(model), tmp_path / "m", write)
    batches = [pixels, pixels[:1], pixels[:3]]
    assert export.largest_difference(wrapped, read(tmp_path / "m"), batches) < 1e-5


def test_a_file_that_says_something_else_is_not_written(mlcl, calibrated, monkeypatch, tmp_path):
    """The exporter gets other weights than those it is compared with."""
    original = export._write_torch

    def other(network, example, metadata, path):
        with torch.no_grad():
            network.network.head.classifier.bias += 0.1
        original(network, example, metadata, path)
        with torch.no_grad():
            network.network.head.classifier.bias -= 0.1

    monkeypatch.setitem(export._FORMATS, "torch_export", (other, export._read_torch))
    (tmp_path / "m.pt2").write_text("an earlier one")
    outcome = mlcl("export", "--ckpt_path", calibrated, "--format", "torch_export", "--output", "m.pt2")
    assert outcome.status == 1 and "probabilities differ from the original's by up to" in outcome.err
    assert (tmp_path / "m.pt2").read_text() == "an earlier one" and len(list(tmp_path.iterdir())) == 1


def test_a_network_that_cannot_be_exported(mlcl, calibrated, monkeypatch, tmp_path):
    from mlcl.heads import SemanticAttention

    original = SemanticAttention.forward
    branch = lambda self, features: original(self, features * (2 if float(features.sum()) > 1e9 else 1))  # noqa: E731
    monkeypatch.setattr(SemanticAttention, "forward", branch)
    for kind, name in (("onnx", "m.onnx"), ("torch_export", "m.pt2")):
        outcome = mlcl("export", "--ckpt_path", calibrated, "--format", kind, "--output", name)
        assert outcome.status == 1 and "mlcl: the network cannot be exported: " in outcome.err
        assert len(outcome.err) < 600 and "\x1b" not in outcome.err and list(tmp_path.iterdir()) == []


def test_a_number_that_is_none_is_a_difference():
    batches = [torch.zeros(1, 2), torch.ones(1, 2)]
    broken = lambda pixels: pixels / pixels.where(pixels == 0, 1) if pixels.sum() == 0 else pixels  # noqa: E731
    assert np.isnan(export.largest_difference(torch.nn.Identity(), broken, batches[::-1]))


def test_images_that_cannot_be_read(mlcl, calibrated, tmp_path):
    (tmp_path / "no.jpg").write_text("no")
    common = ["export", "--ckpt_path", calibrated, "--format", "torch_export", "--output", "m.pt2"]
    outcome = mlcl(*common, "--images", "no.jpg")
    assert outcome.status == 1 and "--images no.jpg: none of them can be read" in outcome.err


def test_without_the_data(mlcl, calibrated, demo_root, tmp_path):
    common = ["export", "--ckpt_path", calibrated, "--format", "torch_export", "--output", "m.pt2"]
    outcome = mlcl(*common, "--data.root", tmp_path / "nowhere")
    assert outcome.status == 0 and "no real image was checked" in outcome.err and "8 images, 0 of them" in outcome.err
    outcome = mlcl(*common, "--images", demo_root / "val2014")
    assert outcome.status == 0 and "24 images, 16 of them real" in outcome.err


def test_without_the_packages(mlcl, calibrated, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    outcome = mlcl("export", "--ckpt_path", calibrated, "--format", "onnx", "--output", "m.onnx")
    assert outcome.status == 1 and "pip install 'mlcl[export]'" in outcome.err
    assert os.listdir() == []
