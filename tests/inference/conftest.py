"""A calibrated checkpoint for all tests of this folder."""

from pathlib import Path

import pytest

from mlcl.inference.calibration import calibrate
from mlcl.runs import folders


@pytest.fixture(scope="session")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "c.ckpt"
    calibrate(folders.best_checkpoint(trained), path, accelerator="cpu", changes={"num_workers": 0})
    return path
