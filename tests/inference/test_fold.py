"""BatchNorms of any backbone fold into their convolutions; what does not fit is left."""

import copy

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import nn

from mlcl.heads import SemanticAttention
from mlcl.inference.fold import fold_batch_norms
from mlcl.network import Network

LEFT = {
    "resnet18": 0,
    "test_resnet": 0,
    "mobilenetv3_small_050": 0,
    "efficientnet_b0": 0,
    "tf_efficientnet_b0": 0,  # convolutions that pad as TensorFlow's
    "resnetv2_50d_evos": 0,  # other norms
    "convnext_atto": 0,  # no BatchNorm
    "densenet121": 62,  # BatchNorm comes first there: some follow a pooling, or are one of several readers
}


class Logits(nn.Module):
    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image).logits


def count(module: nn.Module) -> int:
    return sum("BatchNorm" in type(part).__name__ for part in module.modules())


def settled(module: nn.Module) -> nn.Module:
    """With statistics and affine parts that are not the identity."""
    torch.manual_seed(0)
    for part in module.modules():
        if "BatchNorm" in type(part).__name__ and part.running_mean is not None:
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", LEFT)
def test_every_backbone_gives_the_same(name, frozen):
    if not timm.is_model(name):
        pytest.skip("not in this timm")
    torch.manual_seed(0)
    network = settled(Logits(Network(name, SemanticAttention(8), 3, freeze_batch_norm=frozen)))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    norms = count(network)
    folded, number = fold_batch_norms(network, image)
    other = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(folded(other), network(other), rtol=1e-4, atol=1e-5)
    assert count(folded) == norms - number
    if name != "densenet121":
        assert count(folded) == LEFT[name]
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


def after_convolution(forward, **parts):
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return forward(self, x)

    return settled(Made())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (after_convolution(lambda m, x: m.norm(m.conv(x))), 1),
        (after_convolution(lambda m, x: (lambda y: m.norm(y) + y)(m.conv(x))), 0),  # a second reader
        (after_convolution(lambda m, x: m.norm(m.conv(x)) + m.conv(x)), 0),  # called twice
        (after_convolution(lambda m, x: m.norm(m.conv(x).relu())), 0),
        (after_convolution(lambda m, x: m.norm(m.norm(m.conv(x)))), 0),
        (after_convolution(lambda m, x: m.norm(m.conv(x)), conv=StdConv2d(3, 3, 1)), 0),  # another use of weights
        (after_convolution(lambda m, x: m.norm(m.conv(x)), norm=nn.BatchNorm2d(3, track_running_stats=False)), 0),
    ],
)
def test_only_what_is_safe_is_folded(made, expected):
    example = torch.randn(2, 3, 8, 8)
    folded, number = fold_batch_norms(copy.deepcopy(made), example)
    assert number == expected
    with torch.no_grad():
        torch.testing.assert_close(folded(example), made(example))
