"""A pytest plugin: one tiny real run with hostile names, and its report, for several test files."""

import contextlib
import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.hostile import CLASSES, ODD_FILE, RUN
from support.once import once
from support.running import REPOSITORY

from mlcl.__main__ import main


def _write_dataset(root):
    """Patches of one colour per class, two classes to a picture."""
    rng = np.random.default_rng(0)
    colours = np.array([[220, 40, 40], [40, 200, 60], [50, 80, 220], [230, 210, 60]])
    rows = []
    for n in range(60):
        pixels = rng.integers(90, 140, (48, 64, 3))
        present = sorted(rng.choice(4, 2, replace=False).tolist())
        for k in present:
            top, left = rng.integers(0, 30), rng.integers(0, 45)
            pixels[top : top + 16, left : left + 16] = colours[k] + rng.integers(-20, 20, 3)
        name = f"{n}.png" if n < 50 else ODD_FILE.format(n)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name)
        rows.append([name, *(int(k in present) for k in range(4)), "train" if n < 36 else "test"])
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", *CLASSES, "split"], *rows])


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory):
    """A tiny real run on classes, files and a name that try to be markup; the folder it was started in."""
    return once(tmp_path_factory, "report", _train)


def _train(folder: Path) -> None:
    (folder / "data").mkdir()
    _write_dataset(folder / "data")
    flags = ["--data", "CSVDataset", "--data.root", "data", "--data.image_size", "48", "--data.batch_size", "12"]
    flags += ["--data.num_workers", "0", "--data.val_fraction", "0.2", "--trainer.max_epochs", "3", "--name", RUN]
    flags += ["--trainer.log_every_n_steps", "1"]
    with contextlib.chdir(folder):
        assert main(["fit", "--config", str(REPOSITORY / "configs" / "demo.yaml"), *flags]) == 0
    results = dict(np.load(folder / "runs" / RUN / "version_0" / "scores.npz"))
    results["thresholds"] = np.full(4, 0.4)  # so that something is predicted after three epochs
    results["temperature"] = np.float64(1.5)
    np.savez_compressed(folder / "runs" / RUN / "version_0" / "scores.npz", **results)


@pytest.fixture(scope="session")
def hostile_report(hostile_run):
    from mlcl.report import page  # here, as it imports torch: see tests/conftest.py

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(hostile_run)
        return page.write(Path("runs", RUN)).resolve()
