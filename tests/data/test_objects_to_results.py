"""The datasets of objects and verified labels through the command line: checked, trained on, tested anew."""

import shutil

import numpy as np
import pytest
from support.object_trees import write_lvis, write_open_images, write_roboflow
from support.running import REPOSITORY

SMALL = [
    *("--config", str(REPOSITORY / "configs" / "voc2007.yaml")),
    *("--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"),
    *("--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
    *("--name", "mine", "--report", "false"),
]
KINDS = {
    "COCOJSON": (write_roboflow, ["emu", "cat"], ["--data.classes", '["emu","cat"]', "--data.min_area", "50"]),
    "LVIS": (write_lvis, ["aerosol_can", "bow_(weapon)", "dog", "cat"], []),
    "OpenImages": (write_open_images, ["Dog", "Crane (/m/0a)"], ["--data.classes", "ids.txt", "--data.images=present"]),
}


# One in every run; the others take as long again.
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "COCOJSON")) for kind in KINDS]
)
def test_check_fit_and_test_elsewhere(mlcl, tmp_path, kind):
    write, classes, flags = KINDS[kind]
    write(tmp_path / "data")
    (tmp_path / "data" / "ids.txt").write_text("/m/0d\n/m/0a\n")
    data = ["--data", kind, "--data.root", "data", *flags]
    checked = mlcl("check", *data, "--data.num_workers", "0")
    assert checked.status == 0, (checked.out, checked.err)
    assert "images can be read" in checked.out
    trained = mlcl("fit", *SMALL, *data)
    assert trained.status == 0, trained.err
    before = scores(tmp_path)
    assert before["classes"].tolist() == classes

    shutil.move(tmp_path / "data", tmp_path / "elsewhere")  # where the training images are not
    shutil.rmtree(tmp_path / "elsewhere" / "train", ignore_errors=True)
    for file in (tmp_path / "elsewhere").rglob("*train*.*"):
        file.unlink()
    tested = mlcl("test", "--ckpt_path", "runs/mine", "--data.root", "elsewhere", "--trainer.accelerator", "cpu")
    assert tested.status == 0, tested.err
    after = scores(tmp_path)
    for name in ("classes", "targets", "images"):
        np.testing.assert_array_equal(after[name], before[name])
    np.testing.assert_allclose(after["logits"], before["logits"], atol=1e-5)


def scores(folder):
    """What the newest evaluation wrote."""
    newest = max(folder.rglob("scores.npz"), key=lambda file: file.stat().st_mtime_ns)
    with np.load(newest, allow_pickle=False) as stored:
        return dict(stored)
