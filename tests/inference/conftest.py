"""Calibrated checkpoints for all tests of this folder."""

import contextlib
import io
from pathlib import Path

import pytest
import torch
from support.checkpoints import altered
from support.once import once

from mlcl.__main__ import main
from mlcl.data.voc_classes import VOC_CLASSES
from mlcl.inference.calibration import calibrate
from mlcl.runs import folders, record


@pytest.fixture(scope="session")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        calibrate(folders.best_checkpoint(trained), folder / "c.ckpt", accelerator="cpu", changes={"num_workers": 0})

    return once(tmp_path_factory, "calibrated", make) / "c.ckpt"


@pytest.fixture(scope="session")
def calibrated_low(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of a network whose first class has logits 3000 lower: 30 after the highest temperature there is."""

    def lower(content, config):
        content["state_dict"]["network.head.classifier.bias"][0] -= 3000

    def make(folder: Path) -> None:
        altered(trained, folder / "low.ckpt", lower)
        calibrate(folder / "low.ckpt", folder / "c.ckpt", accelerator="cpu", changes={"num_workers": 0})

    return once(tmp_path_factory, "calibrated_low", make) / "c.ckpt"


@pytest.fixture(scope="session")
def exported(calibrated_low: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """That checkpoint as an ONNX file in a folder of its own, and what ``mlcl export`` said."""

    def make(folder: Path) -> None:
        said, output = io.StringIO(), ["--output", str(folder / "alone" / "m.onnx")]
        with contextlib.redirect_stderr(said):
            assert main(["export", "--ckpt_path", str(calibrated_low), "--format", "onnx", *output]) == 0
        (folder / "said.txt").write_text(said.getvalue())

    folder = once(tmp_path_factory, "exported", make)
    return folder / "alone" / "m.onnx", (folder / "said.txt").read_text()


@pytest.fixture
def voc_model(trained, tmp_path) -> Path:
    """The same network, its classes called as VOC's: 8 more rows in the head."""

    def change(content, config):
        state = content["state_dict"]
        for name, tensor in list(state.items()):
            if name.startswith("network.head.") and tensor.shape[:1] == (12,):
                state[name] = torch.cat([tensor, tensor[:8] * 0.5])
        content[record.KEY]["classes"] = list(VOC_CLASSES[::-1])  # another order than the files'

    return altered(trained, tmp_path / "voc.ckpt", change)
