"""mlcl export: both formats, every head, read back in a process that has no mlcl."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.step_parts import make

from mlcl.heads import HEADS, SemanticAttention
from mlcl.inference import export, formats, load
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


@pytest.mark.parametrize(
    ("kind", "name"), [("onnx", "m.onnx"), pytest.param("torch_export", "m.pt2", marks=pytest.mark.slow)]
)
def test_it_is_read_without_mlcl_and_decides_alike(
    mlcl, calibrated_low, exported, demo_root, kind, name, tmp_path, monkeypatch
):
    """One class has probabilities of 1e-14, at which onnxruntime's own sigmoid is 0."""
    path, said = exported
    if kind != "onnx":
        outcome = mlcl("export", "--ckpt_path", calibrated_low, "--format", kind, "--output", name)
        assert outcome.status == 0, outcome.err
        path, said = tmp_path / name, outcome.err
    assert "checked on 24 images, 16 of them real, largest difference" in said
    assert [file.name for file in path.parent.iterdir()] == [name]
    monkeypatch.chdir(tmp_path)
    model = load(calibrated_low, "cpu")
    images = sorted((demo_root / "val2014").glob("*.jpg"))
    np.save("pixels.npy", torch.stack([model.preprocess(path) for path in images]).numpy())
    done = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    meta, scores = json.loads(done.stdout), np.load("out.npy")
    assert meta == {"classes": list(model.classes), "thresholds": model.thresholds.tolist(), "image_size": 48}
    out = model(images)
    np.testing.assert_allclose(scores, out.scores.numpy(), atol=1e-4)
    labels = [[meta["classes"][k] for k in np.flatnonzero(row >= meta["thresholds"])] for row in scores]
    assert labels == out.labels
    assert 0 < sum(model.classes[0] in row for row in labels) < len(labels)


class EveryHead(torch.nn.Module):
    """One backbone, all heads side by side: pixels to probabilities."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        networks = [Network("test_resnet", make(head), 5) for head in HEADS.values()]
        self.network, self.heads = networks[0], torch.nn.ModuleList(network.head for network in networks)

    def forward(self, pixels):
        features = self.network.features(pixels)
        return torch.cat([head(features).logits.sigmoid() for head in self.heads], 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_every_head(tmp_path, kind):
    network = EveryHead().eval()
    pixels = torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8)
    with formats.exporting():
        program = formats.make_program(network, pixels[:2])
    write, read = formats.FORMATS[kind]
    with formats.exporting():
        write(program, {"mlcl": "0"}, tmp_path / "m")
    assert export.largest_difference(network, read(tmp_path / "m"), [pixels, pixels[:1], pixels[:3]]) < 1e-5


@pytest.fixture
def cheap(monkeypatch):
    """A format whose file answers as the network does, plus ``cheap["error"]``."""
    said = {"error": 0.0}

    def write(network, metadata, path):
        path.write_text("a file")
        said["network"] = network

    def read(path):
        return lambda pixels: said["network"](pixels) + said["error"]

    monkeypatch.setattr(export, "make_program", lambda network, example: network)
    monkeypatch.setitem(export.FORMATS, "torch_export", (write, read))
    return said


COMMON = ["export", "--format", "torch_export", "--output", "m.pt2", "--ckpt_path"]


def test_a_file_with_other_probabilities_is_not_written(mlcl, calibrated, cheap, tmp_path):
    (tmp_path / "m.pt2").write_text("an earlier one")
    for error in (0.1, float("nan")):
        cheap["error"] = error
        outcome = mlcl(*COMMON, calibrated)
        assert outcome.status == 1 and "torch_export" in outcome.err and "not written" in outcome.err
        assert (tmp_path / "m.pt2").read_text() == "an earlier one" and len(list(tmp_path.iterdir())) == 1


def test_a_network_that_cannot_be_exported(mlcl, calibrated, monkeypatch, tmp_path):
    original = SemanticAttention.forward
    branch = lambda self, features: original(self, features * (2 if float(features.sum()) > 1e9 else 1))  # noqa: E731
    monkeypatch.setattr(SemanticAttention, "forward", branch)
    outcome = mlcl(*COMMON, calibrated)
    assert outcome.status == 1 and "mlcl: the network cannot be exported: " in outcome.err
    assert len(outcome.err) < 600 and "\x1b" not in outcome.err and list(tmp_path.iterdir()) == []


def test_images_that_cannot_be_read(mlcl, calibrated, tmp_path):
    (tmp_path / "no.jpg").write_text("no")
    outcome = mlcl(*COMMON, calibrated, "--images", "no.jpg")
    assert outcome.status == 1 and "--images no.jpg" in outcome.err and "not read: no.jpg" in outcome.err


def test_without_the_data(mlcl, calibrated, cheap, demo_root, tmp_path):
    outcome = mlcl(*COMMON, calibrated, "--data.root", tmp_path / "nowhere")
    assert outcome.status == 0 and "no real image was checked" in outcome.err and "8 images, 0 of them" in outcome.err
    outcome = mlcl(*COMMON, calibrated, "--images", demo_root / "val2014")
    assert outcome.status == 0 and "24 images, 16 of them real" in outcome.err


def test_without_the_packages(mlcl, calibrated, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    outcome = mlcl("export", "--ckpt_path", calibrated, "--format", "onnx", "--output", "m.onnx")
    assert outcome.status == 1 and "pip install 'mlcl[export]'" in outcome.err
    assert os.listdir() == []
