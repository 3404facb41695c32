"""Backbones of every kind as a feature map, normalisation inside, freezing, local weights."""

import pytest
import torch
from torch import nn

from mlcl.errors import MlclError
from mlcl.heads import GlobalPool, SemanticAttention
from mlcl.network import Network


def network(backbone="test_resnet", head=None, **settings):
    torch.manual_seed(0)
    return Network(backbone, head or SemanticAttention(8), num_classes=4, **settings)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("test_resnet", (64, 64), {}),
        ("test_convnext", (64, 64), {}),
        ("test_efficientnet", (64, 96), {}),
        ("test_vit", (64, 96), {"img_size": (64, 96)}),  # tokens with a class token
        ("swin_tiny_patch4_window7_224", (64, 64), {"img_size": 64}),  # (B, h, w, C)
    ],
)
def test_every_kind_of_backbone_gives_a_map(name, size, options):
    net = network(name, backbone_kwargs=options)
    out = net(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
    assert out.logits.shape == (2, 4) and out.embeddings.shape == (2, 4, 8) and net.embedding_dim == 8
    height, width = out.attention.shape[2:]
    assert height * size[1] == width * size[0]  # as wide as the picture
    out.logits.sum().backward()
    assert all(p.grad is not None for p in net.backbone.parameters() if p.requires_grad)


def test_the_head_sees_features_of_one_scale():
    """Mean 0 and variance 1 over the channels at every position, without weights of its own; or as they are."""
    seen = []
    for wanted in (True, False):
        net = network(feature_norm=wanted).eval()
        net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        pixels = torch.rand(2, 3, 64, 96)
        net(pixels)
        raw = net.features(pixels)
        if wanted:
            assert seen[-1].shape == raw.shape
            centred = raw - raw.mean(1, keepdim=True)
            torch.testing.assert_close(seen[-1], centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt())
        else:
            assert torch.equal(seen[-1], raw)
    assert network(feature_norm=True).state_dict().keys() == network(feature_norm=False).state_dict().keys()


def test_tokens_keep_their_place():
    """Changing the right half of the picture changes the right half of a ViT's map most."""
    net = network("test_vit", backbone_kwargs={"img_size": (64, 128)}).eval()
    image = torch.rand(1, 3, 64, 128)
    other = image.clone()
    other[..., 64:] = torch.rand(1, 3, 64, 64)
    change = (net.features(image) - net.features(other)).abs().mean((0, 1))
    half = change.shape[1] // 2
    assert change[:, half:].mean() > 2 * change[:, :half].mean()


def test_uint8_and_unit_floats_are_the_same_picture():
    net = network().eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(net(pixels).logits, net(pixels.float() / 255).logits)
    seen = []
    net.backbone.forward_features = lambda x: seen.append(x) or torch.zeros(2, net.backbone.num_features, 1, 1)
    net(pixels)
    mean, std = (torch.tensor(net.backbone.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(seen[0], (pixels / 255 - mean) / std)


def test_frozen_batch_norm_does_not_move():
    net = network(freeze_batch_norm=True).train()
    norms = [m for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training or m.weight.requires_grad or m.bias.requires_grad for m in norms)
    assert any(p.requires_grad for n, p in net.backbone.named_parameters() if n.startswith("conv1"))
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    net(torch.rand(2, 3, 32, 32)).logits.sum().backward()
    assert before and all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    older = {k: v for k, v in net.state_dict().items() if "num_batches_tracked" not in k}  # of a FrozenBatchNorm
    network(freeze_batch_norm=True).load_state_dict(older)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(net).train()
    assert not any(m.training for m in synchronised.modules() if isinstance(m, nn.SyncBatchNorm))


def test_frozen_stages_are_not_trained_and_keep_their_statistics():
    net = network(freeze_stages=2).train()
    frozen = {n for n, p in net.backbone.named_parameters() if not p.requires_grad}
    assert frozen and all(n.startswith(("conv1", "bn1", "layer1")) for n in frozen)
    before = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    net(torch.rand(4, 3, 32, 32)).logits.sum().backward()
    after = net.backbone.state_dict()
    assert torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])
    assert not torch.equal(before["layer2.0.bn1.running_mean"], after["layer2.0.bn1.running_mean"])
    with pytest.raises(MlclError, match="freeze_stages is 9"):
        network(freeze_stages=9)


def test_local_weights(tmp_path):
    first = network()
    torch.save(first.backbone.state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(1)
    second = Network("test_resnet", GlobalPool(), 4, weights=str(tmp_path / "weights.pth"))
    assert all(torch.equal(v, second.backbone.state_dict()[k]) for k, v in first.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "test_resnett"}, "timm has no model 'test_resnett'.*did you mean.*test_resnet"),
        ({"weights": "nowhere.pth"}, "nowhere.pth: no such weights file"),
        ({"backbone_kwargs": {"nonsense": 1}}, "backbone test_resnet cannot be made"),
    ],
)
def test_mistakes_are_one_line(settings, words):
    with pytest.raises(MlclError, match=words) as caught:
        network(**settings)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(MlclError, match="does not hold the weights of test_resnet: Missing keys") as caught:
        network(weights=str(tmp_path / "weights.pth"))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_map_is_refused():
    net = network()
    net.backbone.forward_features = lambda x: torch.zeros(2, 7)
    with pytest.raises(MlclError, match="no feature map"):
        net(torch.zeros(2, 3, 32, 32))


def test_logits_without_embeddings():
    net, image = network(), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    out = net.eval()(image, embeddings=False)
    torch.testing.assert_close(out.logits, net(image).logits)
    assert out.embeddings.shape == (2, 4, 0) and out.attention is None


def test_flip_is_the_mean_over_the_mirror_image():
    """Of the logits only, and only in eval mode."""
    net, image = network(), torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    training = net(image)
    plain, mirrored = net.eval()(image), net(image.flip(-1))
    net.tta = "flip"
    out = net(image)
    assert torch.equal(out.logits, (plain.logits + mirrored.logits) / 2)
    assert not torch.equal(plain.logits, mirrored.logits)
    torch.testing.assert_close(net(image, embeddings=False).logits, out.logits)
    assert torch.equal(out.embeddings, plain.embeddings) and torch.equal(out.attention, plain.attention)
    assert torch.equal(net(image.flip(-1)).logits, out.logits)
    symmetric = torch.cat([image, image.flip(-1)], dim=-1)
    both = net(symmetric).logits
    net.tta = "none"
    assert torch.equal(net(symmetric).logits, both) and torch.equal(net(image).logits, plain.logits)
    net.tta = "flip"
    with pytest.raises(MlclError, match="tta flip needs pictures"):
        net(torch.rand(2, net.backbone.num_features, 2, 3))
    fresh = network()
    fresh.tta = "flip"
    assert torch.equal(fresh.train()(image).logits, training.logits)


def test_flip_leaves_what_a_hook_on_the_head_sees_last():
    """As ``--localise`` takes its maps: a head whose logits come from a whole forward pass shows the plain picture."""
    net, seen = network(head=GlobalPool()).eval(), []
    net.tta = "flip"
    net.head.register_forward_hook(lambda head, inputs, _: seen.append(inputs[0]))
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    net(image)
    assert torch.equal(seen[-1], net.norm(net.features(image).movedim(1, -1)).movedim(-1, 1))
