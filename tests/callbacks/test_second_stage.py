"""From a first stage to a second: what is loaded, where prototypes start, how weights grow, what is logged."""

import csv
from pathlib import Path

import pytest
import torch

from mlcl.callbacks import EmbeddingRamp
from mlcl.callbacks.class_means import class_means
from mlcl.data import Demo
from mlcl.errors import MlclError
from mlcl.heads import CSRA, SemanticAttention
from mlcl.losses import DualContrastiveLoss
from mlcl.module import MultiLabelModule
from mlcl.network import Network
from mlcl.runs.init_from import load_network

DUAL = ["--model.embedding_loss", "DualContrastiveLoss", "--model.embedding_loss.projection", "8"]


@pytest.fixture
def data(demo_root: Path) -> Demo:
    data = Demo(root=str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=48, batch_size=16)
    data.num_workers, data.val_fraction = 0, 0.15  # as configs/demo.yaml
    data.setup()
    return data


def test_class_means_equal_a_loop_and_fall_back(data):
    torch.manual_seed(0)
    network = Network("test_resnet", SemanticAttention(6), data.num_classes).train()
    network.head.classifier.bias.data[:4] = 3.0  # these classes are confident
    data.splits["train"].targets[:, 5] = 0  # this one is never present
    network.tta, passes = "flip", []  # of validations and tests only
    network.head.register_forward_pre_hook(lambda head, inputs: passes.append(len(inputs[0])))
    means, (certain, positives) = class_means(network, data, torch.device("cpu"))
    assert network.training and network.tta == "flip" and sum(passes) == len(data.splits["train"].paths)
    network.tta = "none"
    network.eval()
    dataset, rows = data.dataset("train", augmented=False), [[] for _ in range(data.num_classes)]
    confident = [[] for _ in rows]
    for index in range(len(dataset)):
        sample = dataset[index]
        with torch.no_grad():
            out = network(sample["image"][None])
        for k in range(data.num_classes):
            if sample["target"][k] == 1:
                rows[k].append(out.embeddings[0, k])
                if out.logits[0, k].sigmoid() > 0.85:
                    confident[k].append(out.embeddings[0, k])
    assert positives.tolist() == [len(r) for r in rows] and positives[5] == 0
    assert certain.tolist() == [len(r) for r in confident] and certain.sum() > 0
    for k, (every, sure) in enumerate(zip(rows, confident, strict=True)):
        expected = torch.stack(sure or every).mean(0) if every else torch.zeros(6)
        torch.testing.assert_close(means[k], expected, rtol=1e-4, atol=1e-5)


def test_a_second_stage_starts_from_the_first(mlcl, demo, data):
    demo += ["--trainer.max_epochs", "1"]
    assert mlcl("fit", *demo, "--name", "first", "--test_after_fit", "false").status == 0
    second = [*demo, "--name", "second", "--model.init_from", "runs/first", *DUAL, "--test_after_fit", "false"]
    frozen = ["--model.optimizer.lr", "1e-30", "--ema_decay", "null"]
    outcome = mlcl("fit", *second, *frozen)
    assert outcome.status == 0, outcome.err
    assert (
        "0 of the file not used" in outcome.err
        and "prototypes: " in outcome.err
        and "0 without positives" in outcome.err
    )
    first = torch.load("runs/first/version_0/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    last = torch.load("runs/second/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = [
        name for name in first if name.startswith("network.") and not name.endswith(("_mean", "_var", "_tracked"))
    ]
    assert all(torch.allclose(first[name], last[name], atol=1e-6) for name in weights)
    network = Network("test_resnet", SemanticAttention(128), 12)
    network.load_state_dict({name[8:]: tensor for name, tensor in first.items() if name.startswith("network.")})
    data.interpolation = network.interpolation
    means, _ = class_means(network, data, torch.device("cpu"))
    torch.testing.assert_close(last["embedding_loss.around.prototypes"], means, rtol=1e-3, atol=1e-4)
    Path("runs/first").rename("runs/gone")  # a run that goes on does not need the first stage any more
    again = mlcl("fit", *second, *frozen, "--ckpt_path", "last")
    assert again.status == 0 and "init_from" not in again.err and "prototypes:" not in again.err
    assert not any(part in name for name in weights for part in ("projector", "bank"))
    assert any("projector" in name for name in last)
    assert mlcl("test", "--ckpt_path", "runs/second").status == 0  # which needs no loss


@pytest.mark.slow
def test_cached_features_are_those_of_the_first_stage(mlcl, demo):
    """Its backbone is another one than the second stage was made with: here for the seed, else for fine-tuning."""
    flags = [*demo, "--test_after_fit", "false", "--trainer.max_epochs", "1", "--data.augment", "none"]
    assert mlcl("fit", *flags, "--name", "first").status == 0
    flags += ["--seed_everything", "5", "--model.init_from", "runs/first", "--model.network.freeze_stages", "all"]
    cached = ["--data.cache", "features", "--data.cache_dir", "c", "--data.cache_dtype", "float32"]
    for name, more in {"plain": [], "cached": cached}.items():
        assert mlcl("fit", *flags, *more, "--name", name).status == 0
    runs = (Path("runs") / name / "version_0" / "checkpoints" / "last.ckpt" for name in ("plain", "cached"))
    one, other = (torch.load(run, weights_only=True)["state_dict"] for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_without_a_run_is_an_error(mlcl, demo):
    Path("empty").mkdir()
    outcome = mlcl("fit", *demo, "--model.init_from", "empty")
    assert outcome.status == 1 and "empty: no run" in outcome.err.strip().splitlines()[-1]


def test_every_term_is_logged_by_its_name_and_they_add_up(mlcl, demo):
    ramp = ["--model.embedding_start", "1", "--model.embedding_ramp", "2", "--model.embedding_loss.bank", "2"]
    flags = ["--trainer.max_epochs", "4", "--trainer.log_every_n_steps", "1", "--test_after_fit", "false"]
    outcome = mlcl("fit", *demo, *DUAL, *ramp, *flags)
    assert outcome.status == 0, outcome.err
    rows = list(csv.DictReader(Path("runs/demo/version_0/metrics.csv").read_text().splitlines()))
    steps = [row for row in rows if row["train/loss"]]
    names = ("classification", "label_contrastive", "prototype_contrastive")
    for row in steps:
        assert sum(float(row[f"train/{name}"]) for name in names) == pytest.approx(float(row["train/loss"]), rel=1e-5)
    contrastive = [float(row["train/label_contrastive"]) for row in steps]
    per_epoch = len(contrastive) // 4
    assert not any(contrastive[: per_epoch + 1]) and all(contrastive[per_epoch + 1 :])
    assert any(row["val/spread"] for row in rows)


@pytest.mark.parametrize(
    ("start", "ramp", "expected"),
    [(0, 0, [1, 1, 1, 1]), (1, 0, [0, 0, 1, 1]), (0.5, 1, [0, 0, 0.5, 1]), (0, 2, [0, 0.25, 0.5, 1])],
)
def test_weight_over_time(start, ramp, expected):
    assert [EmbeddingRamp(start, ramp).share(epochs) for epochs in (0, 0.5, 1, 2)] == pytest.approx(expected)


def test_what_was_known_of_a_class_is_found_by_its_name(tmp_path):
    """COCO's order to VOC's, names of both; what knows classes otherwise is left."""
    before, classes = ["dog", "couch", "tv", "cat"], ["cat", "sofa", "bird"]
    torch.manual_seed(0)
    old, new = (Network("test_resnet", SemanticAttention(6), len(names)) for names in (before, classes))
    state = {f"network.{name}": tensor for name, tensor in old.state_dict().items()}
    torch.save({"state_dict": state, "mlcl": {"format": 1, "classes": before}}, tmp_path / "a.ckpt")
    bird = new.head.classifier.weight[2].clone()
    line = load_network(new, tmp_path / "a.ckpt", classes)
    assert "0 of the file not used" in line and line.endswith("other classes, 2 of 3 known by name")
    for name in ("classifier.weight", "classifier.bias", "class_maps.weight"):
        assert torch.equal(new.head.get_parameter(name)[:2], old.head.get_parameter(name)[[3, 1]])
    assert torch.equal(new.head.classifier.weight[2], bird)
    assert torch.equal(new.head.value.weight, old.head.value.weight)
    csra, other = (Network("test_resnet", CSRA(), 4) for _ in range(2))
    state = {f"network.{name}": tensor for name, tensor in csra.state_dict().items()}
    torch.save({"state_dict": state, "mlcl": {"format": 1, "classes": before}}, tmp_path / "b.ckpt")
    assert "as initialised: head.weight; 1 of" in load_network(other, tmp_path / "b.ckpt", before[::-1])


def test_a_late_weight_is_said(mlcl, demo):
    flags = ["--model.embedding_start", "1", "--model.embedding_ramp", "5", "--test_after_fit", "false"]
    outcome = mlcl("fit", *demo, *DUAL, *flags)
    assert outcome.status == 0 and "its full weight after epoch 6, training ends at 2" in outcome.err


@pytest.mark.parametrize(
    ("loss", "flag", "words"),
    [
        ("LabelContrastiveLoss", ["temperature", "0"], "LabelContrastiveLoss: temperature must be positive, got 0.0"),
        ("DualContrastiveLoss", ["bank", "-1"], "DualContrastiveLoss: bank must be at least 0"),
        ("MulSupConLoss", ["projection", "-1"], "MulSupConLoss: projection must be 0, or positive"),
        ("PrototypeContrastiveLoss", ["momentum", "3"], "momentum must be at least 0 and below 1, got 3.0"),
    ],
)
def test_unusable_settings_of_a_loss_are_one_short_line(mlcl, demo, loss, flag, words):
    setting, value = flag
    outcome = mlcl("fit", *demo, "--model.embedding_loss", loss, f"--model.embedding_loss.{setting}", value)
    last = outcome.err.strip().splitlines()[-1]
    assert outcome.status == 1 and words in last and len(last) < 120


def test_negative_epochs_are_refused(mlcl, demo):
    outcome = mlcl("fit", *demo, "--model.embedding_ramp", "-1", *DUAL)
    assert outcome.status == 1 and "embedding_ramp" in outcome.err
    with pytest.raises(MlclError):
        MultiLabelModule(Network("test_resnet", SemanticAttention(4), 3), DualContrastiveLoss(3, 4), embedding_start=-1)
