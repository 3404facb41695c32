"""What every head promises, checked for every head class that the package finds."""

import pytest
import torch

from mlcl.heads import HEADS, Head, HeadOutput

C, K = 12, 5
every_head = pytest.mark.parametrize("name", HEADS)


def make(name: str) -> Head:
    torch.manual_seed(0)
    return HEADS[name]().build(C, K)


@every_head
@pytest.mark.parametrize("size", [(3, 3), (2, 5), (1, 1)])
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
def test_images_do_not_mix(name):
    head, features = make(name).eval(), torch.randn(3, C, 3, 3)
    torch.testing.assert_close(head(features[1:2]).logits, head(features).logits[1:2])


@every_head
def test_logits_stay_in_full_precision_under_autocast(name):
    head, features = make(name).eval(), torch.randn(2, C, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(features.bfloat16()).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head(features).logits, rtol=0.1, atol=0.1)


@every_head
def test_it_can_be_exported(name):
    head, features = make(name).eval(), torch.randn(2, C, 3, 3)
    graph = torch.export.export(head, (features,), dynamic_shapes={"features": {0: torch.export.Dim("batch")}})
    more = torch.randn(4, C, 3, 3)
    torch.testing.assert_close(graph.module()(more).logits, head(more).logits)


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


@pytest.mark.parametrize(("name", "setting"), [("GlobalPool", "pool"), ("SemanticAttention", "normalise")])
def test_unknown_settings_are_named(name, setting):
    with pytest.raises(ValueError, match=f"{setting} must be"):
        HEADS[name](**{setting: "nope"})
