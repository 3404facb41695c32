"""mlcl.load: a checkpoint alone becomes a model; every way to hand it a picture means the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.checkpoints import altered

import mlcl as package
from mlcl.errors import MlclError
from mlcl.heads import GlobalPool
from mlcl.inference import Model, load
from mlcl.inference.rebuild import Rebuilt
from mlcl.network import Network


@pytest.fixture(scope="module")
def model(trained: Path):
    return load(trained, "cpu")


@pytest.fixture(scope="module")
def pictures(demo_root: Path) -> list[Path]:
    return sorted((demo_root / "val2014").glob("*.jpg"))[:7]


def test_it_says_what_the_test_said(trained, model, demo_root):
    scores = np.load(trained / "scores.npz")
    out = model([demo_root / name for name in scores["images"]], batch_size=16)
    expected = 1 / (1 + np.exp(-scores["logits"].astype(np.float64)))
    np.testing.assert_allclose(out.scores.numpy(), expected, atol=1e-6)
    assert list(model.classes) == list(scores["classes"])
    assert out.labels == [[model.classes[k] for k in np.flatnonzero(row >= 0.5)] for row in out.scores]
    assert out.embeddings.shape[:2] == out.scores.shape
    torch.testing.assert_close(out.attention.sum((2, 3)), torch.ones(out.scores.shape))


def test_package_level_name(trained, model, pictures):
    torch.testing.assert_close(package.load(trained, "cpu")(pictures).scores, model(pictures).scores)


def test_every_kind_of_picture_means_the_same(model, pictures):
    path, opened = pictures[0], Image.open(pictures[0])
    array = np.asarray(opened)
    tensor = torch.from_numpy(array.copy()).movedim(-1, 0)
    expected = model(path).scores
    for same in (str(path), opened, array, tensor, tensor / 255, array[None], tensor[None], [path], iter([opened])):
        torch.testing.assert_close(model(same).scores, expected, atol=1e-6, rtol=0)
    grey = np.asarray(opened.convert("L"))
    torch.testing.assert_close(model(grey).scores, model(np.stack([grey] * 3, -1)).scores)


def test_batches_change_nothing(model, pictures):
    whole, parts = model(pictures, batch_size=7), model(iter(pictures), batch_size=2)
    torch.testing.assert_close(whole.scores, parts.scores, atol=1e-6, rtol=1e-5)
    assert whole.labels == parts.labels and len(parts.scores) == 7


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4, 4), np.uint8), "array (H, W, 3)"),
        (np.zeros((4, 4, 3), np.uint16), "must be uint8"),
        (np.full((4, 4, 3), 7.0), "must lie in [0, 1]"),
        (torch.full((3, 4, 4), torch.nan), "must lie in [0, 1]"),
        (np.zeros((0, 4, 3), np.uint8), "array (H, W, 3)"),
        ([], "no picture was given"),
        ("nowhere.jpg", "nowhere.jpg: no such image"),
        (None, "not NoneType"),
        (3, "not int"),
        ([b"x"], "not bytes"),
        (np.array(["a", "b"]), "not <U1"),
    ],
)
def test_what_is_no_picture(model, picture, words):
    with pytest.raises(MlclError) as caught:
        model(picture)
    assert words in str(caught.value)


def test_a_head_without_attention(pictures):
    network = Network("test_resnet", GlobalPool(), 2).eval()
    assert Model(network, "ab", [0.5] * 2, 1.0, 48, "bilinear", Path("none"))(pictures).attention is None


def test_a_class_of_the_users_own_needs_a_word(trained, tmp_path, pictures, monkeypatch, model):
    """A checkpoint may not name any module it likes; the one the user vouches for is imported."""
    (tmp_path / "own_head.py").write_text(
        "from mlcl.heads import SemanticAttention\nclass Own(SemanticAttention):\n    pass\n"
    )

    def change(content, config):
        config["model"]["network"]["init_args"]["head"]["class_path"] = "own_head.Own"

    own = altered(trained, tmp_path / "own.ckpt", change)
    with pytest.raises(MlclError, match="--import own_head"):
        load(own)
    with pytest.raises(MlclError, match="--import own_head: No module"):
        load(own, imports=("own_head",))
    monkeypatch.syspath_prepend(tmp_path)
    torch.testing.assert_close(load(own, "cpu", ("own_head",))(pictures).scores, model(pictures).scores)


def test_weights_of_another_network(trained, tmp_path):
    less = altered(
        trained, tmp_path / "less.ckpt", lambda content, _: content["state_dict"].pop("network.head.classifier.bias")
    )
    with pytest.raises(MlclError, match=r"less.ckpt: the weights do not fit .*head.classifier.bias"):
        load(less)


def test_settings_that_cannot_be_made(trained, tmp_path):
    def change(content, config):
        config["model"]["network"]["init_args"]["backbone"] = "resnet_of_nobody"

    with pytest.raises(MlclError, match=r"odd.ckpt: .*resnet_of_nobody"):
        load(altered(trained, tmp_path / "odd.ckpt", change))


def test_the_weights_are_the_mapped_file_and_can_be_trained(trained, tmp_path, pictures):
    """Nothing is copied, the order of the channels stays, and a training step leaves the file as it is."""
    path = altered(trained, tmp_path / "own.ckpt", lambda *_: None)
    before = path.read_bytes()
    rebuilt = Rebuilt(path)
    network, stored = rebuilt.network(), rebuilt.content["state_dict"]
    for name, tensor in network.state_dict().items():
        assert tensor.data_ptr() == stored[f"network.{name}"].data_ptr(), name
    assert all(parameter.requires_grad for parameter in network.parameters())
    convolution = network.backbone.conv1[0].weight
    assert convolution.is_contiguous(memory_format=torch.channels_last) and not convolution.is_meta
    optimizer, image = torch.optim.SGD(network.train().parameters(), 0.1), torch.rand(4, 3, 48, 48)
    network(image).logits.square().sum().backward()
    weight = convolution.detach().clone()
    optimizer.step()
    assert not torch.equal(weight, convolution) and path.read_bytes() == before


def test_weights_stored_in_half_precision_are_computed_with_in_full(trained, tmp_path):
    def halve(content, _):
        state = content["state_dict"]
        state |= {name: value.bfloat16() for name, value in state.items() if value.is_floating_point()}

    network = Rebuilt(altered(trained, tmp_path / "half.ckpt", halve)).network()
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_what_the_checkpoint_does_not_hold_is_made(trained, tmp_path, monkeypatch):
    """A buffer that is not stored has its value; only the random numbers of new weights are left out."""
    (tmp_path / "buffered.py").write_text(
        "import torch\n"
        "from mlcl.heads import SemanticAttention\n"
        "class Buffered(SemanticAttention):\n"
        "    def build(self, in_features, num_classes):\n"
        "        self.register_buffer('steps', torch.arange(5.0).mul_(2), persistent=False)\n"
        "        self.plain = torch.full((2,), 3.0)\n"
        "        return super().build(in_features, num_classes)\n"
    )

    def change(content, config):
        config["model"]["network"]["init_args"]["head"]["class_path"] = "buffered.Buffered"

    monkeypatch.syspath_prepend(tmp_path)
    head = load(altered(trained, tmp_path / "own.ckpt", change), "cpu", ("buffered",)).network.head
    assert head.steps.tolist() == [0, 2, 4, 6, 8] and head.plain.tolist() == [3, 3]
