"""mlcl export --format safetensors: the folder is what the checkpoint was, for mlcl and without it."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from support.checkpoints import altered
from torch import nn

from mlcl.errors import MlclError
from mlcl.heads import GlobalPool
from mlcl.inference import load, weights
from mlcl.network import Network
from mlcl.runs import folders, record, safetensors_folder

FORMAT = ("export", "--format", "safetensors", "--output", "weights", "--ckpt_path")


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A run's exported weights."""
    place = tmp_path_factory.mktemp("exported_weights") / "weights"
    weights.export(folders.best_checkpoint(trained), place)
    return place


def test_a_run_as_a_folder(mlcl, trained, demo_root, tmp_path):
    """The averaged weights bit for bit, the decisions, the run's own numbers, and nobody's paths."""
    outcome = mlcl(*FORMAT, trained)
    assert outcome.status == 0 and "read back the same" in outcome.err
    folder = tmp_path / "weights"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "mlcl.json", "model.safetensors"]
    content = torch.load(folders.best_checkpoint(trained), weights_only=True)
    stored, raw = load_file(folder / "model.safetensors"), content["current_model_state"]
    for name, value in stored.items():
        average = content["state_dict"][f"network.{name}"]
        assert value.dtype == average.dtype and torch.equal(value, average)
    assert not torch.equal(stored["head.value.weight"], raw["network.head.value.weight"])  # there was an average
    assert stored["backbone.bn1.num_batches_tracked"] == raw["network.backbone.bn1.num_batches_tracked"] > 0
    text = (folder / "mlcl.json").read_text()
    about, metrics = json.loads(text), json.loads((trained / "metrics.json").read_text())["metrics"]
    assert (
        str(demo_root.parent) not in text and str(trained.parents[1]) not in text and about["backbone"] == "test_resnet"
    )
    assert about["test"]["metrics"] == metrics and about["training"]["versions"]["torch"] == version("torch")
    card = ModelCard.load(folder / "README.md")
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured == {name: round(value, 6) for name, value in metrics.items() if value is not None}
    assert f"| mAP | {100 * metrics['mAP']:.2f} |" in card.text
    images = sorted((demo_root / "val2014").glob("*.jpg"))[:4]
    ours, theirs = (load(place, "cpu")(images) for place in (trained, folder))
    assert torch.equal(ours.scores, theirs.scores) and ours.labels == theirs.labels


def test_the_card_has_the_test_that_decided_as_the_checkpoint_on_the_run_s_own_images(trained, tmp_path):
    """Of two later tests of the same file one had other thresholds, one other labels."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    own = json.loads((run / "metrics.json").read_text())
    with np.load(run / "scores.npz") as found:
        arrays = dict(found)
    for number, change in enumerate(
        ({"thresholds": arrays["thresholds"] + 0.4}, {"targets": 1 - arrays["targets"]}, {})
    ):
        (later := run / f"test_{number}").mkdir()
        (later / "metrics.json").write_text(json.dumps({**own, "metrics": {**own["metrics"], "mAP": number / 10}}))
        np.savez(later / "scores.npz", **arrays | change)
        weights.export(run / "checkpoints" / "best.ckpt", tmp_path / f"weights{number}")
        test = json.loads((tmp_path / f"weights{number}" / "mlcl.json").read_text())["test"]
        assert test["metrics"]["mAP"] == (own["metrics"]["mAP"] if change else 0.2)


def test_a_file_of_weights_is_left_out_and_no_class_is_taken_for_a_path(mlcl, trained, tmp_path):
    def change(content, config):
        overlay = {"pretrained_cfg_overlay": {"file": "/home/someone/w.safetensors"}}
        config["model"]["network"]["init_args"]["backbone_kwargs"] = overlay
        config["data"]["init_args"]["mine"] = {1: {"file": "vectors"}}  # of a user's own dataset
        names = [f"/m/{k}" for k in range(12)]
        content[record.KEY]["classes"] = config["data"]["init_args"]["classes"] = names

    weights.export(altered(trained, tmp_path / "x.ckpt", change), tmp_path / "weights")
    text = (tmp_path / "weights" / "mlcl.json").read_text()
    assert "someone" not in text and load(tmp_path / "weights", "cpu").classes[3] == "/m/3"
    assert yaml.safe_load(json.loads(text)["record"]["config"])["data"]["init_args"]["classes"][3] == "/m/3"
    assert yaml.safe_load(json.loads(text)["record"]["config"])["data"]["init_args"]["mine"] == {1: {"file": "vectors"}}


@pytest.mark.parametrize(
    "key, value", [("threshold", float("nan")), ("threshold", [0.5]), ("threshold", "0.5"), ("temperature", 0)]
)
def test_numbers_that_decide_nothing_are_refused(trained, tmp_path, key, value):
    path = altered(trained, tmp_path / "x.ckpt", lambda content, config: config["model"].update({key: value}))
    with pytest.raises(MlclError, match=r"outside \[0, 1\], or a temperature|1 thresholds for 12 classes"):
        load(path, "cpu")


def test_thresholds_and_promises_go_along(mlcl, calibrated, calibrated_low, demo_root, tmp_path):
    assert mlcl(*FORMAT, calibrated_low).status == 0
    model, again = load(calibrated_low, "cpu"), load("weights", "cpu")
    assert torch.equal(model.thresholds, again.thresholds) and model.temperature == again.temperature
    about = json.loads((tmp_path / "weights" / "mlcl.json").read_text())
    kept = record.load(calibrated_low)[record.KEY]
    assert about["test"] is None and about["record"]["calibration"] == kept["calibration"]
    assert "there are no numbers" in (tmp_path / "weights" / "README.md").read_text()
    common = ("--images", demo_root / "val2014", "--num_workers", "0", "--output")
    for source, name in ((calibrated_low, "a.csv"), ("weights", "b.csv")):
        assert mlcl("predict", "--ckpt_path", source, *common, name).status == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.slow
def test_test_and_calibrate_read_it_and_a_training_starts_from_it(mlcl, trained, demo, demo_root, tmp_path):
    assert mlcl(*FORMAT, trained).status == 0
    here = ("--data.root", demo_root)
    assert mlcl("test", "--ckpt_path", "weights", *here, "--data.num_workers", "0").status == 0
    found = next(tmp_path.glob("runs/*/version_0/metrics.json"))
    metrics = [json.loads(path.read_text())["metrics"] for path in (found, trained / "metrics.json")]
    assert metrics[0] == metrics[1]
    outcome = mlcl("calibrate", "--ckpt_path", "weights", *here, "--num_workers", "0", "--output", "c.ckpt")
    assert outcome.status == 0 and load("c.ckpt", "cpu").temperature > 0
    outcome = mlcl("fit", *demo, "--ckpt_path", "weights/model.safetensors")
    assert outcome.status == 1 and "weights only: start from them with --model.init_from" in outcome.err
    outcome = mlcl("fit", *demo, "--model.init_from", "weights", "--trainer.fast_dev_run", "true")
    assert outcome.status == 0 and "init_from" in outcome.err and "0 of the file not used" in outcome.err


READER = """
import re, sys
import numpy as np, torch
sys.modules["mlcl"] = None  # importing it is an error
card = open("README.md").read()
exec(re.search(r"```python\\n(import json.*?)```", card, re.S)[1])
pixels = torch.from_numpy(np.load("pixels.npy")) / 255
features = backbone.forward_features((pixels - state["mean"]) / state["std"])
if about["feature_norm"]:
    features = torch.nn.functional.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)
logits = features.mean((2, 3)) @ state["head.classifier.weight"].T + state["head.classifier.bias"]
np.save("out.npy", torch.sigmoid(logits / about["temperature"]).detach().numpy())
"""


@pytest.mark.slow
def test_the_card_s_code_runs_with_timm_and_torch_alone(mlcl, trained, demo_root, tmp_path):
    """A head whose whole formula fits here: pooling and a linear layer."""

    def pool(content, config):
        torch.manual_seed(0)
        network = Network("test_resnet", GlobalPool(), 12)
        state = content["state_dict"]
        for name in [name for name in state if ".head." in name]:
            del state[name]
        state |= {f"network.{name}": value for name, value in network.state_dict().items() if name.startswith("head.")}
        config["model"]["network"]["init_args"]["head"] = {"class_path": "mlcl.heads.GlobalPool"}

    path = altered(trained, tmp_path / "pool.ckpt", pool)
    assert mlcl(*FORMAT, path).status == 0
    model = load(path, "cpu")
    images = sorted((demo_root / "val2014").glob("*.jpg"))[:3]
    np.save("weights/pixels.npy", torch.stack([model.preprocess(path) for path in images]).numpy())
    done = subprocess.run([sys.executable, "-c", READER], cwd="weights", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load("weights/out.npy"), model(images).scores.numpy(), atol=1e-5)


def test_a_folder_that_is_there_is_left_alone(mlcl, trained, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mine.txt").write_text("mine")
    outcome = mlcl(*FORMAT, trained)
    assert outcome.status == 2 and "is there already" in outcome.err and len(list(tmp_path.iterdir())) == 1
    outcome = mlcl(*FORMAT, trained, "--images", "weights")
    assert outcome.status == 2 and "no picture is needed" in outcome.err


@pytest.mark.parametrize("damage", ["cut", "no json", "no record", "nan", "newer"])
def test_a_damaged_folder_is_refused(mlcl, folder, tmp_path, damage):
    shutil.copytree(folder, tmp_path / "weights")
    path, about = tmp_path / "weights" / "model.safetensors", tmp_path / "weights" / "mlcl.json"
    content = json.loads(about.read_text())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "nan":
        state = load_file(path)
        state["mean"][0] = float("nan")
        safetensors_folder.write(path.parent, state, content)
    elif damage == "no json":
        about.unlink()
    else:
        content["record"] = None if damage == "no record" else {**content["record"], "format": 99}
        about.write_text(json.dumps(content))
    outcome = mlcl("predict", "--ckpt_path", "weights", "--images", "weights", "--output", "p.csv")
    said = {"nan": "mean is not finite", "newer": "newer mlcl", "no record": "not a checkpoint of mlcl"}
    assert outcome.status == 1 and said.get(damage, "or damaged") in outcome.err and "Traceback" not in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_channels_last_tied_and_half_tensors_are_stored_as_they_are(tmp_path):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3).half()
            self.two.bias = self.one.bias
            self.register_buffer("count", torch.tensor(2**40 + 1))
            self.register_buffer("part", torch.arange(12.0).reshape(3, 4).T[1:3])
            self.register_buffer("wide", torch.tensor([1.5]).expand(5))

    state = Odd().state_dict()
    safetensors_folder.write(tmp_path, state, {"record": {}})
    again, _ = safetensors_folder.read(tmp_path / "model.safetensors")
    assert again.keys() == state.keys()
    assert all(again[name].dtype == value.dtype and torch.equal(again[name], value) for name, value in state.items())
