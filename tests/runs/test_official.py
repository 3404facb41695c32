"""Checkpoints of the papers' own code: our network computes what theirs does, or the file is refused."""

import copy
import functools
import re

import numpy as np
import pytest
import torch
from support import official as their
from torchvision.ops import FrozenBatchNorm2d

from mlcl.errors import MlclError
from mlcl.heads import CSRA, LabelAttention, MLDecoder, QueryDecoder
from mlcl.inference import load
from mlcl.network import Network
from mlcl.runs import official

NAMES = [f"class {k}" for k in range(their.K)]
HEADS = {
    "csra": (lambda: CSRA(2, 0.3), their.csra, lambda state, x: their.csra_logits(state, x, 0.3)),
    "ml_decoder": (lambda: MLDecoder(their.D, 4, ffn=their.FFN), their.ml_decoder, their.ml_decoder_logits),
    "query2label": (lambda: QueryDecoder(their.D, their.FFN), their.query2label, their.query2label_logits),
}


class Passing(torch.nn.Module):
    """A backbone that is nothing but its input, of C channels."""

    num_features = their.C


@functools.cache
def headless():
    network = Network("test_resnet", CSRA(), their.K, feature_norm=False)
    network.backbone = Passing()
    return network.eval()


def network_of(head):
    """A network whose head gets feature maps of C channels: the backbones have tests of their own."""
    network = copy.deepcopy(headless())
    network.head = head.build(their.C, their.K).eval()
    return network


def same(network, reference):
    """Both on feature maps, in float32; logits reach several units."""
    features = torch.randn(2, their.C, their.SIDE, their.SIDE)
    with torch.no_grad():
        ours = network.head(features).logits
    theirs = torch.stack([reference(x) for x in features])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert theirs.std() > 0.05


@pytest.mark.parametrize("name", HEADS)
def test_the_head_computes_the_paper_s_formula(name, tmp_path):
    make, state_of, formula = HEADS[name]
    torch.manual_seed(3)
    state = state_of()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "x.pth")
    network = network_of(make())
    said = official.load(network, tmp_path / "x.pth", NAMES)
    assert "tensors loaded" in said and "mean and std of the pixels 0.5/0.5/0.5 and" in said
    same(network, lambda x: formula(state, x))


@pytest.mark.parametrize("groups", [1, 3, 5])
def test_ml_decoder_in_a_resnet_with_groups_of_several_classes(tmp_path, groups):
    torch.manual_seed(groups)
    state = their.ml_decoder(groups, start="fc")
    names = dict(enumerate(NAMES))
    torch.save({"model": state, "idx_to_class": names}, tmp_path / "x.pth")
    network = network_of(MLDecoder(their.D, groups, ffn=their.FFN))
    official.load(network, tmp_path / "x.pth", NAMES)
    same(network, lambda x: their.ml_decoder_logits(state, x, "fc"))
    names[1], names[2] = names[2], names[1]
    torch.save({"model": state, "idx_to_class": names}, tmp_path / "x.pth")
    with pytest.raises(MlclError, match="class 1 is 'class 2', that of the data 'class 1'"):
        official.load(network, tmp_path / "x.pth", NAMES)


@pytest.mark.parametrize("encoders", [0, 2])
def test_sadcl_without_projection_and_with_its_losses_tensors(tmp_path, encoders):
    torch.manual_seed(encoders)
    state = their.query2label(encoders=encoders, decoders=1)
    del state["input_proj.weight"], state["input_proj.bias"]  # the tokens have the width already
    state |= {"prototype": their.some(1, their.K, their.D), "memorybank": their.some(2, their.K, their.D)}
    state |= their.linear("proj_head.layers.0", their.D, their.D) | their.linear("proj_head.layers.1", 4, their.D)
    best = {"best_mAP": np.float64(0.849), "lr": np.float32(0.1), "epoch": np.int64(3)}  # NumPy's, as voc_mAP gives it
    torch.save({"state_dict": state, "arch": "Q2L-R101-448", "optimizer": {"state": {}}, **best}, tmp_path / "x.pth")
    head = QueryDecoder(None, their.FFN, encoder_layers=encoders, decoder_layers=1)
    network = network_of(head)
    network.head = head.build(their.D, their.K).eval()
    official.load(network, tmp_path / "x.pth", NAMES)
    features = torch.randn(1, their.D, their.SIDE, their.SIDE)
    theirs = their.query2label_logits(state, features[0], encoders, 1)
    torch.testing.assert_close(network.head(features).logits[0].detach(), theirs, atol=1e-5, rtol=1e-5)


def write_mulcon(folder, start="ema_epoch_7_net_", backbone=None, channels=their.C):
    state, classes = their.mulcon(channels)
    torch.save(state, folder / f"{start}A.pth")
    torch.save(backbone or {}, folder / f"{start}E.pth")
    for k, part in enumerate(classes):
        torch.save(part, folder / f"{start}C_{k}.pth")
    return state, classes, folder / f"{start}A.pth"


def test_mulcon_from_its_many_files(tmp_path):
    torch.manual_seed(5)
    state, classes, path = write_mulcon(tmp_path)
    network = network_of(LabelAttention(their.D))
    official.load(network, path, NAMES)
    same(network, lambda x: their.mulcon_logits(state, classes, x))
    for heads, scale in ((2, "full"), (4, "head")):
        with pytest.raises(MlclError, match=r"its code has (heads 4, this head 2|scale full, this head head)"):
            official.load(network_of(LabelAttention(their.D, heads, scale=scale)), path, NAMES)
    torch.save([1], tmp_path / "ema_epoch_7_net_E.pth")
    with pytest.raises(MlclError, match=r"net_E\.pth holds no weights, but a list"):
        official.load(network, path, NAMES)
    (tmp_path / "ema_epoch_7_net_C_3.pth").unlink()
    with pytest.raises(MlclError, match=r"net_C_3\.pth: no such"):
        official.load(network, path, NAMES)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", ["csra", pytest.param("query2label", marks=SLOW), pytest.param("mulcon", marks=SLOW)])
def test_the_backbone_too(tmp_path, name):
    """torchvision's ResNet by the names of each repository, with BatchNorms that are frozen in Query2Label."""
    model = their.resnet(FrozenBatchNorm2d if name == "query2label" else None)
    part = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    width, path = 512, tmp_path / "x.pth"
    if name == "csra":
        head, own = CSRA(1), {"classifier.multi_head.0.head.weight": their.some(their.K, width, 1, 1)}
        torch.save(part | own, path)
    elif name == "query2label":
        head, own = QueryDecoder(their.D, their.FFN), their.query2label(width)
        torch.save({"model": {f"backbone.0.body.{key}": value for key, value in part.items()} | own}, path)
    else:
        numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
        renamed = {f"{numbers[key.split('.')[0]]}.{key.split('.', 1)[1]}": value for key, value in part.items()}
        head, (_, _, path) = LabelAttention(their.D), write_mulcon(tmp_path, backbone=renamed, channels=width)
    network = Network("resnet18", head, their.K, feature_norm=False).eval()
    official.load(network, path, NAMES)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        theirs = their.features_of(model, (pixels - network.mean) / network.std)
        torch.testing.assert_close(network.features(pixels), theirs, atol=1e-4, rtol=1e-4)
    assert network.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_vit_of_another_size_is_not_resized(tmp_path):
    """timm's own filter would, and compute something else."""
    torch.manual_seed(1)
    sizes = {size: Network("test_vit", CSRA(2), their.K, backbone_kwargs={"img_size": size}) for size in (64, 96)}
    width = sizes[64].backbone.num_features
    heads = {f"classifier.multi_head.{i}.head.weight": their.some(their.K, width, 1, 1) for i in range(2)}
    torch.save(sizes[64].backbone.state_dict() | heads, tmp_path / "x.pth")
    for network in sizes.values():
        network.norm = torch.nn.Identity()
    with pytest.raises(MlclError, match=r"pos_embed of the backbone is \(1, 17, 64\) in the file, \(1, 37, 64\) here"):
        official.load(sizes[96], tmp_path / "x.pth", NAMES)
    assert "tensors loaded" in official.load(sizes[64], tmp_path / "x.pth", NAMES)


def test_codes_of_positions_are_of_one_size(tmp_path):
    """A file of 96 pixels (3 x 3 positions) is refused for 64: our head would compute other codes than theirs."""
    torch.manual_seed(2)
    network = Network("test_resnet", QueryDecoder(their.D, their.FFN), their.K, feature_norm=False).eval()
    part = {f"backbone.0.{name}": value for name, value in network.backbone.state_dict().items()}
    torch.save({"model": part | their.query2label(network.backbone.num_features)}, tmp_path / "x.pth")
    with pytest.raises(MlclError, match=r"maps of 3 x 3 positions, pictures of 64 pixels give 2 x 2 here: .* 96$"):
        official.load(network, tmp_path / "x.pth", NAMES, 64)
    said = official.load(network, tmp_path / "x.pth", NAMES, 96, "bicubic")
    assert "--data.image_size, --data.interpolation bicubic (of its code: bilinear), --model.network.head.heads" in said


def test_what_is_taken_of_several_is_said(tmp_path):
    """A file often holds a moving average, too."""
    first, second = their.csra(), their.csra()
    torch.save({"state_dict": first, "state_dict_ema": second, "optimizer": {"state": {}}}, tmp_path / "x.pth")
    network = network_of(CSRA(2))
    assert "tensors of state_dict (not those of state_dict_ema) loaded" in official.load(
        network, tmp_path / "x.pth", NAMES
    )
    assert torch.equal(network.head.weight[0], first["classifier.multi_head.0.head.weight"].flatten(1))


@pytest.mark.parametrize("names", [{"idx_to_class": NAMES[::-1]}, {"idx_to_class": dict(enumerate(NAMES[::-1]))},
                                   {"class_to_idx": {name: 4 - k for k, name in enumerate(NAMES)}}])  # fmt: skip
def test_another_order_of_the_classes_is_refused_however_it_is_written(tmp_path, names):
    torch.save({"state_dict": their.csra(), **names}, tmp_path / "x.pth")
    with pytest.raises(MlclError, match="its class 0 is 'class 4', that of the data 'class 0'"):
        official.load(network_of(CSRA(2)), tmp_path / "x.pth", NAMES)


@pytest.mark.slow
def test_tresnet_by_its_own_names(tmp_path):
    """Its ABN takes |w| + 1e-5 for the weight w: the sign is lost on purpose."""
    network = Network("tresnet_m", MLDecoder(their.D, 4, ffn=their.FFN), their.K, feature_norm=False)
    state = {}
    for name, value in network.backbone.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            name = re.sub(r"(conv\d+|downsample\.\d+)\.conv\.", r"\1.0.", name)
            state[re.sub(r"(conv\d+|downsample\.\d+)\.bn\.", r"\1.1.", name)] = torch.randn_like(value)
    torch.save({"model": state | their.ml_decoder(width=network.backbone.num_features)}, tmp_path / "x.pth")
    assert "tensors loaded" in official.load(network, tmp_path / "x.pth", NAMES)
    loaded = network.backbone.state_dict()
    theirs = state["body.conv1.1.weight"].abs() + 1e-5
    assert torch.equal(loaded["body.conv1.bn.weight"], theirs)
    assert torch.equal(loaded["body.conv1.conv.weight"], state["body.conv1.0.weight"])


def query_decoder(**settings):
    return lambda: QueryDecoder(8, 6, **settings)


def two_heads(first, second):
    return lambda: {f"classifier.multi_head.{i}.head.weight": value for i, value in enumerate((first, second))}


NAN, ONES = torch.full((5, 12, 1, 1), torch.nan), torch.ones(5, 12, 1, 1)
REFUSED = {
    "another head": (lambda: CSRA(2), their.query2label, {}, "of a QueryDecoder, this network has a CSRA"),
    "heads of csra": (CSRA, their.csra, {}, r"weight of the head is \(2, 5, 12\) in the file, \(1, 5, 12\) here"),
    "width": (lambda: QueryDecoder(4, 6), their.query2label, {}, r"queries of the head is \(5, 8\) in the file"),
    "layers": (
        query_decoder(decoder_layers=3),
        their.query2label,
        {},
        r"there is nothing for decoder\.2\.query\.weight",
    ),
    "self-attention": (
        *(query_decoder(), their.query2label, {"transformer.decoder.layers.0.self_attn.in_proj_bias": torch.ones(24)}),
        "self-attention among the",
    ),
    "another code": (query_decoder(), their.query2label, {"backbone.1.pe": torch.ones(1, 8, 3, 3)}, "sine code"),
    "norm before": (
        *(query_decoder(), their.query2label, {"transformer.encoder.norm.weight": torch.ones(8)}),
        r"transformer\.encoder\.norm\.weight is none of the tensors",
    ),
    "a tensor is gone": (query_decoder(), their.query2label, {"fc.b": None}, r"no tensor fc\.b"),
    "attention heads": (
        *(lambda: MLDecoder(8, 4, heads=4, ffn=6), their.ml_decoder, {}),
        "its code has heads 8, this head 4",
    ),
    "groups": (lambda: MLDecoder(8, 5, ffn=6), their.ml_decoder, {}, r"weight of the head is \(3, 8, 2\) in the file"),
    "zero-shot": (lambda: MLDecoder(8, 4), dict, {"head.wordvec_proj.weight": torch.ones(1)}, "zero-shot"),
    "not finite": (lambda: CSRA(2), two_heads(NAN, ONES), {}, "not finite"),
    "unequal": (lambda: CSRA(2), two_heads(ONES, ONES[:, 1:]), {}, "do not fit each other"),
    "twice": (
        lambda: CSRA(2),
        two_heads(ONES, ONES),
        {"module.classifier.multi_head.0.head.weight": 2 * ONES},
        "twice",
    ),
    "quantised": (lambda: CSRA(2), two_heads(ONES.to(torch.int8), ONES.to(torch.int8)), {}, "torch.int8, not floating"),
    "something else": (CSRA, dict, {"weight": ONES}, "is no checkpoint of CSRA, ML-Decoder, Query2Label"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(why, tmp_path):
    make, state_of, changes, said = REFUSED[why]
    torch.manual_seed(3)
    state = {name: value for name, value in {**state_of(), **changes}.items() if value is not None}
    torch.save(state, tmp_path / "x.pth")
    network = network_of(make())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(MlclError, match=said) as caught:
        official.load(network, tmp_path / "x.pth", NAMES)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_normalised_features_are_refused(tmp_path):
    torch.save(their.csra(), tmp_path / "x.pth")
    network = Network("test_resnet", CSRA(2), their.K)
    with pytest.raises(MlclError, match=r"--model\.network\.feature_norm false"):
        official.load(network, tmp_path / "x.pth", NAMES)


class Hostile:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": their.csra(), "args": Hostile()}, "x.pth")
    with pytest.raises(MlclError, match="is refused: only tensors and plain values"):
        official.load(network_of(CSRA(2)), tmp_path / "x.pth", NAMES)
    assert not (tmp_path / "ran").exists()


def test_the_command_makes_a_checkpoint(mlcl, demo, demo_root, tmp_path):
    torch.manual_seed(4)
    source = Network("test_resnet", CSRA(2), 12)
    state = source.backbone.state_dict()
    state |= {
        f"classifier.multi_head.{i}.head.weight": torch.randn(12, source.backbone.num_features, 1, 1) for i in range(2)
    }
    torch.save(state, tmp_path / "csra.pth")
    network = ["--model.network.head", "CSRA", "--model.network.head.heads", "2", "--model.network.head.lam", "0.4"]
    pixels = ["--model.network.backbone_kwargs", "{pretrained_cfg_overlay: {mean: [0, 0, 0], std: [1, 1, 1]}}"]
    pairs = zip(demo[::2], demo[1::2], strict=True)
    data = [word for pair in pairs if pair[0].startswith(("--config", "--data.", "--model.network")) for word in pair]
    common = ["convert", "--weights", "csra.pth", "--output", "csra.ckpt", *data]
    outcome = mlcl(*common, *network, *pixels)
    assert outcome.status == 1 and "--model.network.feature_norm false" in outcome.err
    outcome = mlcl(*common, *network, *pixels, "--model.network.feature_norm", "false")
    assert outcome.status == 0 and "pixels 0/0/0 and 1/1/1, --data.image_size, --model.network.head.lam" in outcome.err
    model = load("csra.ckpt", "cpu")
    images = sorted((demo_root / "val2014").glob("*.jpg"))[:2]
    batch = torch.stack([model.preprocess(path) for path in images]).float() / 255
    with torch.no_grad():
        features = source.eval().backbone.forward_features(batch)
    logits = model.network(torch.stack([model.preprocess(path) for path in images])).logits.detach()
    assert logits.shape == (2, 12)
    weights = [state[f"classifier.multi_head.{i}.head.weight"][:, :, 0, 0] for i in range(2)]
    scores = [torch.einsum("kc,bcp->bkp", w / w.norm(dim=1, keepdim=True), features.flatten(2)) for w in weights]
    soft = (scores[0].softmax(-1) * scores[0]).sum(-1)
    theirs = scores[0].mean(-1) + 0.4 * soft + scores[1].mean(-1) + 0.4 * scores[1].amax(-1)
    torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=1e-4)


def test_mean_and_std_of_the_code_are_named_where_they_differ(tmp_path):
    torch.save(their.csra(), tmp_path / "x.pth")
    said = official.load(network_of(CSRA(2)), tmp_path / "x.pth", NAMES)
    assert (
        "pixels 0.5/0.5/0.5 and 0.5/0.5/0.5 (of its code: 0/0/0 and 1/1/1), --data.image_size, --model.network.head.lam"
        in said
    )
