"""A checkpoint written before a default changed rebuilds the network as it was."""

import pytest
import torch
import yaml
from support.checkpoints import altered

import mlcl as package
from mlcl.errors import MlclError
from mlcl.heads import SemanticAttention
from mlcl.network import Network
from mlcl.runs import record
from mlcl.runs.init_from import load_network


def as_format_1(content, config):
    """Format 1 knew neither the norm of the features nor the share of average pooling."""
    content[record.KEY]["format"] = 1
    arguments = config["model"]["network"]["init_args"]
    assert arguments.pop("feature_norm") and arguments["head"]["init_args"].pop("average")


@pytest.fixture
def old(trained, tmp_path):
    return altered(trained, tmp_path / "old.ckpt", as_format_1)


def test_the_network_is_the_old_one(trained, old):
    content = record.load(old)
    assert "feature_norm" not in content[record.KEY]["config"]
    weights = {k.removeprefix("network."): v for k, v in content["state_dict"].items() if k.startswith("network.")}
    plain = Network("test_resnet", SemanticAttention(128, average=0), 12, feature_norm=False).eval()
    plain.load_state_dict(weights)
    pixels = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    expected, now = plain(pixels).logits, package.load(trained).network(pixels).logits
    assert torch.equal(package.load(old).network(pixels).logits, expected)
    assert not torch.allclose(now, expected, atol=0.01)


def test_it_is_tested_as_the_old_one_without_a_word(old, mlcl):
    outcome = mlcl("test", "--ckpt_path", old)
    assert outcome.status == 0 and "overrides" not in outcome.err, outcome.err


def test_a_head_of_a_user_with_that_name_keeps_its_own_arguments():
    head = {"class_path": "mine.SemanticAttention", "init_args": {}}
    network = {"class_path": "mlcl.network.Network", "init_args": {"head": head}}
    content = {
        record.KEY: {"format": 1, "config": yaml.safe_dump({"model": {"network": network}, "data": {}, "trainer": {}})}
    }
    filled = record.config_of(content, "x.ckpt")["model"]["network"]["init_args"]
    assert filled == {"head": head, "feature_norm": False}


def test_weights_for_features_of_another_scale_do_not_slip_in(old, trained, demo, mlcl):
    last = altered(trained, trained / "checkpoints" / "old_last.ckpt", as_format_1)
    goes_on = mlcl("fit", *demo, "--data.val_fraction", "0.25", "--model.optimizer.lr", "0.01", "--ckpt_path", last)
    keep = ["--model.network.head.average", "0", "--model.network.feature_norm", "false"]
    kept = mlcl("fit", *demo, "--data.val_fraction", "0.25", "--model.optimizer.lr", "0.01", "--ckpt_path", last, *keep)
    last.unlink()
    assert kept.status == 0, kept.err
    assert goes_on.status == 1 and "continued as it was: model.network." in goes_on.err
    assert "give --model.network.head.average 0.0, or start a new run" in goes_on.err
    network = Network("test_resnet", SemanticAttention(128), 12)
    with pytest.raises(MlclError, match=r"its head was trained with .* give --model.network.feature_norm false"):
        load_network(network, old)
    assert "0 of the file not used" in load_network(
        Network("test_resnet", SemanticAttention(128), 12, feature_norm=False), old
    )
