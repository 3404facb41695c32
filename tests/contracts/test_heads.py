"""What every head promises, checked for every head class that the package finds, and formulas of some by slow loops."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlcl.errors import MlclError
from mlcl.heads import HEADS, Head, HeadOutput
from mlcl.heads._attention import sine_code

C, K = 12, 5
SMALL = {"QueryDecoder": {"dim": 16}, "LabelAttention": {"dim": 16}, "MLDecoder": {"dim": 16, "ffn": 32}}  # for speed
every_head = pytest.mark.parametrize("name", HEADS)


def make(name: str, seed: int = 0, **settings) -> Head:
    torch.manual_seed(seed)
    return HEADS[name](**SMALL.get(name, {}) | settings).build(C, K)


def reference(name: str, classes: int = K, **settings) -> Head:
    """For a comparison with a formula: float64, no dropout, and no parameter left at a special value such as 0 or 1."""
    torch.manual_seed(0)
    head = HEADS[name](**settings).build(C, classes).double().eval().requires_grad_(False)
    for parameter in head.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return head


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@every_head
@pytest.mark.parametrize("size", [(2, 5), (1, 1)])
def test_shapes(name, size):
    head = make(name)
    out = head(torch.randn(2, C, *size))
    assert isinstance(out, HeadOutput)
    assert out.logits.shape == (2, K)
    assert out.embeddings.shape == (2, K, head.embedding_dim)
    if out.attention is not None:
        assert out.attention.shape == (2, K, *size) and (out.attention >= 0).all()
        torch.testing.assert_close(out.attention.flatten(2).sum(-1), torch.ones(2, K))


@every_head
def test_gradient_reaches_the_backbone_and_every_parameter(name):
    head, features = make(name), torch.randn(2, C, 3, 3, requires_grad=True)
    head(features).logits.square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in head.parameters())


@every_head
def test_gradient_of_the_embeddings_reaches_the_backbone(name):
    head, features = make(name), torch.randn(2, C, 3, 3, requires_grad=True)
    embeddings = head(features).embeddings
    (embeddings * torch.randn_like(embeddings)).sum().backward()  # the plain sum is constant after a LayerNorm
    assert features.grad.abs().sum() > 1e-3


@every_head
def test_another_size_at_test_than_in_training(name):
    head = make(name)
    head(torch.randn(2, C, 3, 3)).logits.sum().backward()
    before = {key: value.clone() for key, value in head.state_dict().items()}
    for size in [(5, 4), (1, 7)]:
        features = torch.randn(2, C, *size)
        out = head.eval()(features)
        assert out.logits.isfinite().all() and out.embeddings.isfinite().all()
        assert out.attention is None or out.attention.shape[2:] == size
        torch.testing.assert_close(out, make(name).eval()(features))  # nothing is remembered from the training size
    torch.testing.assert_close(dict(head.state_dict()), before, rtol=0, atol=0)


@every_head
def test_the_state_dict_is_all_there_is(name):
    head, other, features = make(name).eval(), make(name, seed=1).eval(), torch.randn(2, C, 3, 3)
    assert not torch.equal(head(features).logits, other(features).logits)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other(features), head(features), rtol=0, atol=0)


@every_head
def test_dropout_acts_in_training_only(name):
    settings = {"dropout": 0.5} if "dropout" in inspect.signature(HEADS[name]).parameters else {}
    head, features = make(name, **settings), torch.randn(2, C, 3, 3)
    first, second = head(features), head(features)
    assert first.logits.isfinite().all() and first.embeddings.isfinite().all()
    assert torch.equal(first.logits, second.logits) != bool(settings)
    assert torch.equal(head.eval()(features).logits, head(features).logits)


@every_head
def test_images_do_not_mix(name):
    head, features = make(name).eval(), torch.randn(3, C, 3, 3)
    torch.testing.assert_close(head(features[1:2]).logits, head(features).logits[1:2])


@every_head
def test_logits_stay_in_full_precision_under_autocast(name):
    head, features = make(name).eval(), torch.randn(2, C, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features.bfloat16()).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())  # nor were they rounded on the way
    torch.testing.assert_close(logits, head(features).logits, rtol=0.1, atol=0.1)


@every_head
def test_it_trains_in_half_precision(name):
    head, features = make(name), torch.randn(2, C, 3, 3).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head(features)
    assert out.attention is None or out.attention.dtype == torch.float32
    out.logits.square().sum().backward()
    assert features.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@every_head
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_logits_alone_are_the_logits(name, dropout):
    """Values and gradients, also where embeddings were dropped, and in full precision under autocast."""
    accepts = "dropout" in inspect.signature(HEADS[name]).parameters
    settings = {"dropout": dropout} if accepts else {}
    gradients = []
    for logits_of in (lambda head, features: head(features).logits, lambda head, features: head.classify(features)):
        head = make(name, **settings).double()
        for parameter in head.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
        features = torch.randn(2, C, 3, 3, dtype=torch.float64).requires_grad_()
        logits = logits_of(head, features)
        logits.square().sum().backward()
        gradients.append([logits, features.grad, *(parameter.grad for parameter in head.parameters())])
    for whole, alone in zip(*gradients, strict=True):
        assert_equal(alone, whole)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make(name).classify(torch.randn(2, C, 3, 3).bfloat16()).dtype == torch.float32


@every_head
def test_it_says_what_it_is(name):
    assert HEADS[name].__doc__ and len(HEADS[name].__doc__) > 60


def test_semantic_attention_equals_projecting_every_position_first():
    """f_k = sum over p of A_k(p) W F(p), as written; the head pools first."""
    head, features = make("SemanticAttention"), torch.randn(2, C, 3, 4)
    out = head(features)
    projected = head.value(features.flatten(2).transpose(1, 2))  # (B, P, D)
    expected = torch.einsum("bkp,bpd->bkd", out.attention.flatten(2), projected)
    torch.testing.assert_close(out.embeddings, expected, rtol=1e-4, atol=1e-5)
    expected = (out.embeddings * head.classifier.weight).sum(-1) + head.classifier.bias
    torch.testing.assert_close(out.logits, expected)


@pytest.mark.parametrize("normalise", ["softmax", "sigmoid"])
def test_semantic_attention_is_in_part_average_pooling(normalise):
    head, features = reference("SemanticAttention", normalise=normalise, average=0.25), torch.randn(2, C, 3, 4).double()
    mixed, head.average = head(features), 0.0
    attended, pooled = head(features), head.value(features.mean((2, 3)))
    assert_equal(mixed.embeddings, 0.75 * attended.embeddings + 0.25 * pooled[:, None])
    assert_equal(mixed.attention, 0.75 * attended.attention + 0.25 / 12)
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"average must lie in \[0, 1\)"):
            make("SemanticAttention", average=share)


def slow_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def slow_layer(layer, x, query, key, value):
    """A post-norm layer around torch's own attention module; also the weights of its attention."""
    attention = nn.MultiheadAttention(x.shape[-1], layer.heads, batch_first=True, dtype=torch.float64).eval()
    parts = layer.query, layer.key, layer.value
    attention.in_proj_weight.data = torch.cat([part.weight for part in parts])
    attention.in_proj_bias.data = torch.cat([part.bias for part in parts])
    attention.out_proj.load_state_dict(layer.out.state_dict())
    mixed, weights = attention(query, key, value)
    x = slow_norm(x + mixed, layer.norm_attention)
    inside = (x @ layer.inner.weight.T + layer.inner.bias).clamp(min=0)
    return slow_norm(x + inside @ layer.outer.weight.T + layer.outer.bias, layer.norm_ffn), weights


def slow_code(height, width, dim):
    code = torch.empty(height * width, dim, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            for channel in range(dim):
                t = (row + 1) / height if channel < dim // 2 else (column + 1) / width
                j = channel % (dim // 2)
                angle = 2 * math.pi * t / 10000 ** (2 * (j // 2) / (dim // 2))
                code[row * width + column, channel] = math.cos(angle) if j % 2 else math.sin(angle)
    return code


@pytest.mark.parametrize(("height", "width", "dim"), [(3, 4, 16), (2, 5, 12), (1, 1, 4), (14, 14, 8)])
def test_the_sine_code_is_its_formula(height, width, dim):
    like = torch.empty(0, dtype=torch.float64)
    torch.testing.assert_close(sine_code(height, width, dim, like), slow_code(height, width, dim), rtol=0, atol=1e-12)


def test_the_sine_code_is_computed_in_full_precision():
    code, exact = sine_code(14, 14, 64, torch.empty(0, dtype=torch.bfloat16)), slow_code(14, 14, 64)
    assert code.dtype == torch.bfloat16
    torch.testing.assert_close(code.double(), exact, rtol=0, atol=0.003)  # bfloat16 angles would be off by 0.02


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": None, "heads": 3, "dropout": 0.5},
        {"dim": 16, "ffn": 20, "heads": 4, "encoder_layers": 0, "decoder_layers": 1},
        {"dim": 8, "ffn": 9, "heads": 2, "encoder_layers": 2, "decoder_layers": 3},
    ],
)
def test_query_decoder_equals_torch_attention_step_by_step(settings):
    head, features = reference("QueryDecoder", **settings), torch.randn(2, C, 2, 5, dtype=torch.float64)
    x = features.flatten(2).transpose(1, 2)
    if settings["dim"] is None:
        assert isinstance(head.project, nn.Identity) and head.encoder[0].inner.out_features == 4 * C
    else:
        x = x @ head.project.weight.T + head.project.bias
    code = slow_code(2, 5, head.embedding_dim)
    for layer in head.encoder:
        x, _ = slow_layer(layer, x, x + code, x + code, x)
    state = torch.zeros(2, K, head.embedding_dim, dtype=torch.float64)
    for layer in head.decoder:
        state, weights = slow_layer(layer, state, state + head.queries, x + code, x)
    assert len(head.encoder) == settings.get("encoder_layers", 1)
    assert len(head.decoder) == settings.get("decoder_layers", 2)
    out, expected = head(features), slow_norm(state, head.norm)
    assert_equal(out.embeddings, expected)
    assert_equal(out.attention, weights.reshape(2, K, 2, 5))
    assert_equal(out.logits, (expected * head.classifier.weight).sum(-1) + head.classifier.bias)


def test_query_decoder_treats_every_class_alike():
    head, features, order = make("QueryDecoder").eval(), torch.randn(2, C, 3, 3), torch.tensor([3, 1, 4, 0, 2])
    before = head(features)
    for parameter in (head.queries, head.classifier.weight, head.classifier.bias):
        parameter.data = parameter.data[order]
    for actual, expected in zip(head(features), before, strict=True):
        torch.testing.assert_close(actual, expected[:, order])


@pytest.mark.parametrize(("name", "count"), [("QueryDecoder", 2), ("LabelAttention", 3), ("MLDecoder", 0)])
def test_only_the_attention_that_is_returned_is_computed_openly(name, count, monkeypatch):
    fused, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    make(name)(torch.randn(2, C, 3, 3))
    assert len(calls) == count


def layer_size(d, f):
    return 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d


def block_size(c, d):
    return 2 * (d * d + d) + 2 * (c * d + d) + 4 * d


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        # with the 42.17 million of ResNet-101 that SADCL trains this is the 193.58 million of its log
        ("QueryDecoder", {"dim": 2048, "ffn": 8192}, 3 * layer_size(2048, 8192) + 2 * 2048 + 2 * 80 * 2048 + 80),
        ("QueryDecoder", {"dim": None}, 3 * layer_size(2048, 8192) + 2 * 2048 + 2 * 80 * 2048 + 80),
        ("QueryDecoder", {}, 2049 * 512 + 3 * layer_size(512, 2048) + 2 * 512 + 2 * 80 * 512 + 80),
        (
            "LabelAttention",
            {},
            2 * block_size(2048, 2048) + block_size(2048, 1024) + block_size(1024, 1024) + 2 * 80 * 1024 + 80,
        ),
        ("CSRA", {"heads": 2}, 2 * 80 * 2048),
        ("MLDecoder", {}, 2049 * 768 + layer_size(768, 2048) + 2 * 768 + 80 * 768 + 80),
    ],
)
def test_number_of_parameters_at_the_published_size(name, settings, size):
    with torch.device("meta"):
        head = HEADS[name](**settings).build(2048, 80)
    assert sum(parameter.numel() for parameter in head.parameters()) == size


def slow_block(block, queries, tokens, heads, scale):
    """MAB(queries, tokens) of one image, and its attention averaged over heads, one number at a time."""
    q, k, v = block.query(queries), block.key(tokens), block.value(tokens)
    width, mixed, maps = q.shape[1] // heads, torch.zeros_like(q), torch.zeros(len(q), len(k), dtype=q.dtype)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(q)):
            scores = [math.exp((q[i, part] * row[part]).sum() / math.sqrt(scale(q.shape[1], width))) for row in k]
            for j in range(len(k)):
                weight = scores[j] / sum(scores)
                mixed[i, part] += weight * v[j, part]
                maps[i, j] += weight / heads
    x = slow_norm(q + mixed, block.norm_attention)
    return slow_norm(x + block.linear(x).clamp(min=0), block.norm_linear), maps


@pytest.mark.parametrize("scale", ["full", "head"])
@pytest.mark.parametrize("blocks", [(2, 1), (0, 2)])
def test_label_attention_equals_its_formula(scale, blocks):
    head = reference("LabelAttention", dim=8, heads=2, token_blocks=blocks[0], label_blocks=blocks[1], scale=scale)
    features = torch.randn(2, C, 2, 3, dtype=torch.float64)
    out, under_root = head(features), {"full": lambda full, part: full, "head": lambda full, part: part}[scale]
    assert (len(head.among_tokens), len(head.among_labels)) == blocks
    for image, logits, embeddings, attention in zip(features, *out, strict=True):
        tokens = image.flatten(1).T
        for block in head.among_tokens:
            tokens, _ = slow_block(block, tokens, tokens, 2, under_root)
        labels, maps = slow_block(head.to_labels, head.queries, tokens, 2, under_root)
        for block in head.among_labels:
            labels, _ = slow_block(block, labels, labels, 2, under_root)
        assert_equal(embeddings, labels)
        assert_equal(attention, maps.reshape(K, 2, 3))
        assert_equal(logits, (labels * head.classifier.weight).sum(-1) + head.classifier.bias)


def test_label_attention_starts_from_small_normal_weights():
    torch.manual_seed(0)
    head = HEADS["LabelAttention"](dim=256).build(256, 40)
    for weight in (head.to_labels.key.weight, head.among_tokens[1].linear.weight, head.classifier.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.to_labels.value.bias.abs().max() == 0
    bound = math.sqrt(6 / (40 + 256))
    assert 0.95 * bound < head.queries.abs().max() <= bound


@pytest.mark.parametrize(("heads", "temperatures"), [(1, [1]), (2, [1, 99]), (4, [1, 2, 4, 99])])
def test_csra_equals_its_formula(heads, temperatures):
    head, features = reference("CSRA", heads=heads, lam=0.3), torch.randn(2, C, 2, 3, dtype=torch.float64)
    out = head(features)
    for b in range(2):
        for k in range(K):
            logit, embedding, attention = 0.0, [], torch.zeros(6, dtype=torch.float64)
            for h, temperature in enumerate(temperatures):
                w = head.weight[h, k] / head.weight[h, k].square().sum().sqrt()
                x = [features[b, :, p // 3, p % 3] for p in range(6)]
                s = [(w @ x[p]).item() for p in range(6)]
                if temperature == 99:
                    a = [float(s[p] == max(s)) for p in range(6)]
                else:
                    a = [math.exp(temperature * s[p]) / sum(math.exp(temperature * t) for t in s) for p in range(6)]
                logit += sum(s) / 6 + 0.3 * sum(a[p] * s[p] for p in range(6))
                embedding.append(sum((1 / 6 + 0.3 * a[p]) * x[p] for p in range(6)))
                attention += torch.tensor(a, dtype=torch.float64) / heads
            assert out.logits[b, k].item() == pytest.approx(logit, abs=1e-10)
            assert_equal(out.embeddings[b, k], torch.cat(embedding))
            assert_equal(out.attention[b, k].flatten(), attention)
    unit = F.normalize(head.weight, dim=-1).transpose(0, 1).flatten(1)
    assert_equal(out.logits, (out.embeddings * unit).sum(-1))


@pytest.mark.parametrize("heads", [2, 4, 6, 8])
def test_csra_gives_equal_maxima_to_one_position(heads):
    attention = make("CSRA", heads=heads)(torch.ones(2, C, 3, 3)).attention.flatten(2)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, K))
    torch.testing.assert_close(attention.amax(-1), torch.full((2, K), 1 / heads + (1 - 1 / heads) / 9))


@pytest.mark.parametrize(
    ("classes", "groups", "made", "each"), [(5, 4, 3, 2), (5, 5, 5, 1), (7, 3, 3, 3), (5, None, 5, 1), (3, 9, 3, 1)]
)
def test_ml_decoder_equals_its_formula(classes, groups, made, each):
    head = reference("MLDecoder", classes, dim=8, heads=2, ffn=6, groups=groups)
    features = torch.randn(2, C, 2, 3, dtype=torch.float64)
    assert head.queries.shape == (made, 8) and head.weight.shape == (made, 8, each)
    tokens = head.project(features.flatten(2).transpose(1, 2)).clamp(min=0)
    queries = slow_norm(2 * head.queries, head.norm).expand(2, -1, -1)
    embeddings, weights = slow_layer(head.layer, queries, queries, tokens, tokens)
    out = head(features)
    for k in range(classes):
        g = k // each
        assert_equal(out.logits[:, k], embeddings[:, g] @ head.weight[g, :, k % each] + head.bias[k])
        assert_equal(out.embeddings[:, k], embeddings[:, g])
        assert_equal(out.attention[:, k], weights[:, g].reshape(2, 2, 3))


@pytest.mark.parametrize(("classes", "made"), [(80, 80), (100, 100), (101, 51), (500, 100)])
def test_ml_decoder_has_at_most_a_hundred_groups(classes, made):
    with torch.device("meta"):
        assert HEADS["MLDecoder"]().build(C, classes).queries.shape == (made, 768)


def test_ml_decoder_does_not_train_its_queries():
    head = make("MLDecoder")
    assert "queries" in head.state_dict() and "queries" not in dict(head.named_parameters())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("QueryDecoder", {"dim": 18, "heads": 4}, "dim must be a positive multiple of heads, got 18 and 4"),
        ("QueryDecoder", {"dim": 18, "heads": 3}, "dim must be a positive multiple of the sine code"),
        ("QueryDecoder", {"dim": None, "heads": 5}, "dim must be a positive multiple of heads, got 12 and 5"),
        ("QueryDecoder", {"heads": 0}, "multiple of heads"),
        ("QueryDecoder", {"decoder_layers": 0}, "decoder_layers must be at least 1"),
        ("QueryDecoder", {"encoder_layers": -1}, "encoder_layers must be at least 0"),
        ("LabelAttention", {"dim": 10}, "dim must be a positive multiple of heads"),
        ("LabelAttention", {"dim": 10, "heads": 5}, "the backbone's width must be a positive multiple of heads"),
        ("LabelAttention", {"token_blocks": -1}, "token_blocks must be at least 0"),
        ("CSRA", {"heads": 3}, "heads must be one of 1, 2, 4, 6, 8, got 3"),
        ("MLDecoder", {"dim": 12}, "dim must be a positive multiple of heads"),
        ("MLDecoder", {"groups": 0}, "groups must be at least 1"),
    ],
)
def test_unusable_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        HEADS[name](**settings).build(C, K)


@pytest.mark.parametrize(
    ("name", "setting"), [("GlobalPool", "pool"), ("SemanticAttention", "normalise"), ("LabelAttention", "scale")]
)
def test_unknown_settings_are_named(name, setting):
    with pytest.raises(ValueError, match=f"{setting} must be"):
        HEADS[name](**{setting: "nope"})


def word_vectors(path, classes: int = K, width: int = 7):
    """A file of vectors, of lengths 0.001 to 1000, and the vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(classes, width)) * np.logspace(-3, 3, classes)[:, None]
    np.save(path, vectors)
    return vectors


def test_queries_from_vectors_are_their_projection(tmp_path):
    """e_k = W v_k + b of vectors of length sqrt(d), in place of learned queries; the rest of the head is the same."""
    vectors = word_vectors(tmp_path / "words.npy")
    head = reference("QueryDecoder", dim=8, queries=str(tmp_path / "words.npy"))
    queries = torch.empty(K, 8, dtype=torch.float64)
    weight, bias = head.query_projection.weight.tolist(), head.query_projection.bias.tolist()
    for k, vector in enumerate(vectors.tolist()):
        length = math.sqrt(sum(value * value for value in vector))
        for row in range(8):
            scaled = [math.sqrt(7) * value / length for value in vector]
            queries[k, row] = sum(w * v for w, v in zip(weight[row], scaled, strict=True)) + bias[row]
    learned = reference("QueryDecoder", dim=8)
    learned.load_state_dict({name: value for name, value in head.state_dict().items() if "query_" not in name}
                            | {"queries": queries})  # fmt: skip
    features = torch.randn(2, C, 2, 5, dtype=torch.float64)
    for actual, expected in zip(head(features), learned(features), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)  # the vectors are stored as float32
    fresh = make("QueryDecoder", dim=512, queries=str(tmp_path / "words.npy"))
    assert not fresh.query_vectors.requires_grad and "queries" not in fresh.state_dict()
    torch.testing.assert_close(fresh.query_vectors.square().mean(1), torch.ones(K))
    start = fresh.query_projection(fresh.query_vectors).square().mean()
    assert 0.7 < start < 1.4  # as torch.randn, with which learned queries start
    features = torch.randn(2, C, 3, 3)
    fresh(features).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in fresh.parameters())


def test_a_state_dict_is_enough_without_the_file(tmp_path):
    word_vectors(tmp_path / "words.npy")
    head = make("QueryDecoder", queries=str(tmp_path / "words.npy")).eval()
    (tmp_path / "words.npy").unlink()
    other, features = make("QueryDecoder", seed=1, queries=7).eval(), torch.randn(2, C, 3, 3)
    assert other(features).logits.isnan().all()  # it cannot be used by mistake
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other(features), head(features), rtol=0, atol=0)


def test_the_start_of_learned_queries_is_as_it_was():
    """Bit for bit: the same numbers are drawn in the same order."""
    head = make("QueryDecoder", queries=None)
    torch.manual_seed(0)
    nn.Linear(C, 16)
    for layer in (*head.encoder, *head.decoder):
        type(layer)(16, 64, 4, 0.1)
    assert torch.equal(head.queries, torch.randn(K, 16))
    assert "query_vectors" not in head.state_dict()


def test_vectors_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    word_vectors(tmp_path / "right.npy")
    assert make("QueryDecoder", queries="~/right.npy").query_vectors.shape == (K, 7)
    good, huge = np.load(tmp_path / "right.npy"), np.full((K, 3), 1e300)
    huge[0] = 1e-300
    np.save(tmp_path / "huge.npy", huge)
    vectors = make("QueryDecoder", queries="~/huge.npy").query_vectors
    torch.testing.assert_close(vectors, torch.ones(K, 3))  # though their squares are 0 and infinite
    broken, zero, few = good.copy(), good.copy(), good[:3]
    broken[2, 1], zero[4] = np.nan, 0
    (tmp_path / "text.npy").write_text("cat 0.1 0.2")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "right.npy").read_bytes()[:150])
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", good)
    arrays = {"broken": broken, "zero": zero, "few": few, "flat": good[0], "none": good[:0], "signs": good > 0}
    for name, array in (arrays | {"names": np.array([["cat"]]), "objects": np.array([[{}]])}).items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    for name, words in {
        "nowhere.npy": "no such file", "text.npy": "no .npy file", "cut.npy": "no .npy file",
        "empty.npy": "no .npy file", "several.npz": "real numbers, not several",
        "broken.npy": r"row 2 \(from 0\) is not finite", "zero.npy": r"row 4 \(from 0\) is zero",
        "few.npy": "3 rows for 5 classes", "flat.npy": r"\(classes, d\), got \(7,\)", "none.npy": r"got \(0, 7\)",
        "names.npy": "real numbers, not of <U3", "objects.npy": "no .npy file of numbers",
        "signs.npy": "real numbers, not of bool",
    }.items():  # fmt: skip
        with pytest.raises(MlclError, match=f"model.network.head.queries .*{name}.*({words})") as caught:
            make("QueryDecoder", queries=str(tmp_path / name))
        assert "\n" not in str(caught.value)
