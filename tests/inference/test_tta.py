"""--tta flip through the command line: the logits by hand, which checkpoint says what, and what is refused."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.saved_runs import compare

from mlcl.inference import export, formats, load
from mlcl.runs import folders, record
from mlcl.runs.results import read

OVERRIDES = "the command line overrides the checkpoint: tta: "


def by_hand(model, paths) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, K) of pictures, and the mean over them and their mirror images."""
    pixels = torch.stack([model.preprocess(path) for path in paths])
    with torch.inference_mode():
        plain, mirrored = model.network(pixels).logits, model.network(pixels.flip(-1)).logits
    return plain, (plain + mirrored) / 2


def test_a_test_of_the_mean(mlcl, trained, demo_root, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for flags in ((), ("--tta", "flip")):
        outcome = mlcl("test", "--ckpt_path", "run", "--localise", "true", *flags)
        assert outcome.status == 0, outcome.err
    assert OVERRIDES + "none -> flip" in outcome.err and "tta: mean logits of every picture and its" in outcome.out
    before, after = read(tmp_path / "run" / "test_0"), read(tmp_path / "run" / "test_1")
    plain, mean = by_hand(load("run", "cpu"), [demo_root / name for name in before.images])
    np.testing.assert_allclose(before.logits, plain, atol=1e-5)
    np.testing.assert_allclose(after.logits, mean, atol=1e-5)
    assert np.abs(before.logits - after.logits).max() > 0.01
    assert after.summary["tta"] == "flip" and "tta" not in before.summary
    assert "test_1: tta flip in 1 of 1 runs" in compare("run/test_0", "run/test_1").notes
    assert after.summary["embedding_spread"] == before.summary["embedding_spread"]
    for name in ("energy", "pointing", "gain"):  # of the plain picture's attention
        np.testing.assert_array_equal(getattr(after.localisation, name), getattr(before.localisation, name))
    assert after.summary["localisation"]["sizes"] != before.summary["localisation"]["sizes"]  # their AP is of the mean


def test_a_calibrated_checkpoint_carries_it(mlcl, trained, demo_root):
    best = folders.best_checkpoint(trained)
    outcome = mlcl("calibrate", "--ckpt_path", best, "--output", "c.ckpt", "--num_workers", "0", "--tta", "flip")
    assert outcome.status == 0 and OVERRIDES + "none -> flip" in outcome.err, outcome.err
    model, paths = load("c.ckpt", "cpu"), sorted((demo_root / "val2014").glob("*.jpg"))
    assert model.network.tta == "flip" and load(best, "cpu").network.tta == "none"
    assert record.config_of(record.load("c.ckpt"), "c.ckpt")["tta"] == "flip"
    plain, mean = by_hand(load(best, "cpu"), paths)
    torch.testing.assert_close(model(paths).scores, model.probabilities(mean), atol=1e-5, rtol=1e-4)
    common = ["predict", "--ckpt_path", "c.ckpt", "--images", *paths, "--num_workers", "0", "--output"]
    for flags, logits, said in (
        ((), mean, ""),
        (("--tta", "flip"), mean, ""),
        (("--tta", "none"), plain, "flip -> none"),
    ):
        outcome = mlcl(*common, "p.csv", *flags)
        assert outcome.status == 0 and (OVERRIDES in outcome.err) == bool(said) and said in outcome.err
        rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
        scores = torch.tensor([[float(row[name]) for name in model.classes] for row in rows])
        torch.testing.assert_close(scores, model.probabilities(logits), atol=1e-4, rtol=1e-3)
        Path("p.csv").unlink()
    outcome = mlcl("test", "--ckpt_path", "c.ckpt", "--trainer.accelerator", "cpu")
    assert outcome.status == 0 and OVERRIDES not in outcome.err
    found = read(next(Path("runs").rglob("scores.npz")).parent)
    order = [[path.name for path in paths].index(Path(name).name) for name in found.images]
    np.testing.assert_allclose(found.logits, mean[order], atol=1e-5)
    assert found.summary["tta"] == "flip" and found.definitions["temperature"] == model.temperature
    assert export.metadata(model)["tta"] == "flip"


def test_what_is_exported_takes_the_mean_itself(trained):
    model = load(trained, "cpu")
    network, pixels = export.Exported(model).eval(), torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        plain, mirrored = network(pixels).logit(), network(pixels.flip(-1)).logit()
        model.network.tta = "flip"
        torch.testing.assert_close(network(pixels).logit(), (plain + mirrored) / 2, rtol=1e-4, atol=1e-4)
    assert (plain - mirrored).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch_export", "onnx"])
def test_an_exported_file_takes_the_mean_itself(trained, tmp_path, kind):
    model = load(trained, "cpu")
    model.network.tta = "flip"
    network, pixels = export.Exported(model).eval(), torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    write, read_back = formats.FORMATS[kind]
    with formats.exporting():
        write(formats.make_program(network, pixels[:2]), export.metadata(model), tmp_path / "m")
    assert export.largest_difference(network, read_back(tmp_path / "m"), [pixels, pixels[:1]]) < 1e-5
    model.network.tta = "none"
    assert export.largest_difference(network, read_back(tmp_path / "m"), [pixels]) > 1e-4


def test_the_training_is_the_same_and_its_validations_are_those_of_the_test(mlcl, trained, demo):
    outcome = mlcl("fit", *demo, "--data.val_fraction", "0.25", "--model.optimizer.lr", "0.01", "--tta", "flip")
    assert outcome.status == 0, outcome.err
    runs = trained, Path("runs/demo/version_0")
    weights, losses = [], []
    for run in runs:
        weights.append(record.load(run / "checkpoints" / "last.ckpt")["state_dict"])
        rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
        losses.append([row["val/classification"] for row in rows if row["val/classification"]])
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert len(losses[0]) == len(losses[1]) == 2 and losses[0] != losses[1]
    assert read(Path("runs/demo/version_0")).summary["tta"] == "flip"
    assert load("runs/demo/version_0", "cpu").network.tta == "flip"


def test_what_cannot_be_mirrored_is_refused(mlcl, demo, tmp_path):
    outcome = mlcl("fit", *demo, "--model.network.freeze_stages", "all", "--data.cache", "features", "--tta", "flip")
    assert outcome.status == 1 and outcome.err.startswith("mlcl: --tta flip needs pictures"), outcome.err
    assert outcome.err.count("\n") == 1 and not Path("runs").exists()
    (tmp_path / "m.onnx").touch()
    outcome = mlcl("predict", "--ckpt_path", "m.onnx", "--images", ".", "--output", "o.csv", "--tta", "flip")
    assert outcome.status == 2 and "--tta flip: an ONNX file is run on the CPU as it is" in outcome.err
    outcome = mlcl("fit", *demo, "--tta", "flop")
    assert outcome.status == 2 and "--tta" in outcome.err and outcome.err.count("\n") == 1, outcome.err
