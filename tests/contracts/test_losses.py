"""What every loss promises, checked for every loss class that the package finds."""

import itertools
import math

import pytest
import torch
from torch import nn

from mlcl import losses
from mlcl.losses import CLASSIFICATION_LOSSES, ClassificationLoss

K = 5
SETTINGS = {"DistributionBalancedLoss": {"class_counts": [3.0, 10.0, 1.0, 0.0, 50.0], "num_samples": 50}}
DOUBLE = {"BinaryCrossEntropy"}  # the rest of timm's compute in fp32 whatever comes in


def make(name: str) -> ClassificationLoss:
    return CLASSIFICATION_LOSSES[name](**SETTINGS.get(name, {}))


def batch(case: str, rows: int = 6, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(len(case))
    logits = torch.randn(rows, K, generator=generator).mul(3).to(dtype)
    targets = {
        "mixed": torch.randint(-1, 2, (rows, K), generator=generator),
        "no positives": torch.zeros(rows, K, dtype=torch.long),
        "all positive": torch.ones(rows, K, dtype=torch.long),
        "all unknown": -torch.ones(rows, K, dtype=torch.long),
        "one image": torch.randint(0, 2, (1, K), generator=generator),
        "sharp": torch.randint(0, 2, (rows, K), generator=generator),
    }[case]
    return logits[: len(targets)] * (1000 if case == "sharp" else 1), targets


every_loss = pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
CASES = ("mixed", "no positives", "all positive", "all unknown", "one image", "sharp")


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_are_finite(name, dtype):
    for case in CASES:
        logits, targets = batch(case, dtype=dtype)
        logits.requires_grad_()
        loss = make(name)(logits, targets)
        loss.backward()
        assert loss.ndim == 0 and loss.dtype in (torch.float32, torch.float64)
        assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all(), case
        if case == "all unknown":
            assert logits.grad.abs().max() == 0


@every_loss
def test_an_unknown_entry_has_no_say(name):
    logits, targets = batch("mixed")
    changed = torch.where(targets < 0, logits + 7, logits).requires_grad_()
    logits.requires_grad_()
    values = [make(name)(x, targets) for x in (logits, changed)]
    torch.testing.assert_close(values[0], values[1])
    values[0].backward()
    assert (logits.grad[targets < 0] == 0).all() and (logits.grad[targets >= 0] != 0).any()


@every_loss
def test_order_of_images_and_classes_does_not_matter(name):
    logits, targets = batch("mixed")
    expected = make(name)(logits, targets)
    rows = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(make(name)(logits[rows], targets[rows]), expected)
    if name not in SETTINGS:  # its settings are per class
        columns = torch.tensor([4, 2, 0, 1, 3])
        torch.testing.assert_close(make(name)(logits[:, columns], targets[:, columns]), expected)


@every_loss
def test_gradient_is_that_of_the_value(name):
    """Central differences; in fp64 where the loss computes in it, else with a coarse step."""
    dtype, step = (torch.float64, 1e-6) if name in DOUBLE else (torch.float32, 1e-2)
    logits, targets = batch("mixed", rows=3, dtype=dtype)
    logits = (logits / 3).requires_grad_()
    loss = make(name)
    loss(logits, targets).backward()
    for i, j in itertools.product(range(3), range(K)):
        shift = torch.zeros_like(logits)
        shift[i, j] = step
        slope = (loss(logits + shift, targets) - loss(logits - shift, targets)) / (2 * step)
        assert slope.item() == pytest.approx(logits.grad[i, j].item(), abs=1e-3 if dtype == torch.float32 else 1e-7)


@every_loss
def test_grad_mode_and_autocast_are_left_alone(name):
    logits, targets = batch("mixed")
    loss = make(name)
    with torch.no_grad():
        assert not loss(logits, targets).requires_grad
        assert not torch.is_grad_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, targets)
        assert torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(inside, loss(logits, targets), rtol=0, atol=0)


@every_loss
def test_wrong_shapes_are_named(name):
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(2, 4\)"):
        make(name)(torch.zeros(2, 5), torch.zeros(2, 4))


@every_loss
def test_it_says_what_it_is(name):
    loss = CLASSIFICATION_LOSSES[name]
    assert loss.__doc__ and len(loss.__doc__) > 60
    assert isinstance(make(name), nn.Module)


def naive(name, s, t):
    """One entry's loss, from the paper's formula."""
    p = 1 / (1 + math.exp(-s))
    if name == "BinaryCrossEntropy":
        return -math.log(p) if t else -math.log(1 - p)
    if name == "AsymmetricLoss":
        shifted = max(p - 0.05, 0)
        return -math.log(p) if t else -(shifted**4) * math.log(1 - shifted)
    assert name == "PolyLoss"
    truth = p if t else 1 - p
    return -math.log(truth) + 2 * (1 - truth)


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
@pytest.mark.parametrize("name", ["BinaryCrossEntropy", "AsymmetricLoss", "PolyLoss"])
def test_per_entry_losses_equal_the_formula(name, reduction):
    logits, targets = batch("mixed")
    rows = zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    entries = [naive(name, s, t) for s, t in rows if t >= 0]
    expected = sum(entries) / (len(entries) if reduction == "mean" else len(logits))
    found = CLASSIFICATION_LOSSES[name](reduction=reduction)(logits, targets)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_ranking_losses_equal_the_formula_on_the_known_entries():
    logits, targets = batch("mixed")
    expected = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        known = list(zip(row, target, strict=True))
        expected += math.log1p(sum(math.exp(s) for s, t in known if t == 0))
        expected += math.log1p(sum(math.exp(-s) for s, t in known if t == 1))
    assert losses.ZLPRLoss()(logits, targets).item() == pytest.approx(expected / len(logits), rel=1e-5)
