"""The weight of present labels: a number, one for each class, or the ratio in the training split."""

import math

import pytest
import torch

from mlcl.losses import BinaryCrossEntropy


def by_loops(logits, targets, weights):
    """The mean over the known entries, from the formula."""
    terms = []
    for row, labels in zip(logits.tolist(), targets.tolist(), strict=True):
        for s, t, w in zip(row, labels, weights, strict=True):
            p = 1 / (1 + math.exp(-s))
            terms += [] if t < 0 else [-w * math.log(p) if t else -math.log(1 - p)]
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("given", "weights"), [(3, [3, 3, 3]), (0.5, [0.5] * 3), ([1, 2.5, 7.0], [1, 2.5, 7])])
def test_given_weights_equal_a_loop(given, weights):
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[1, 0, -1], [1, 1, 0], [0, 0, 1], [-1, 1, 1], [0, -1, 0], [1, 1, 1]])
    assert BinaryCrossEntropy(pos_weight=given)(logits, targets).item() == pytest.approx(
        by_loops(logits, targets, weights)
    )


def test_the_weights_of_auto_are_ratios_and_1_without_one_kind():
    loss = BinaryCrossEntropy(pos_weight="auto")
    logits, targets = torch.tensor([[0.5, -1.0, 2.0, 0.1]]).double(), torch.tensor([[1, 0, 1, 1]])
    with pytest.raises(TypeError, match="pos_weight"):
        loss(logits, targets)
    loss.set_weights(torch.tensor([4, 30, 0, 5]), torch.tensor([12, 10, 9, 0]))
    assert loss(logits, targets).item() == pytest.approx(by_loops(logits, targets, [3, 1 / 3, 1, 1]))
    assert not loss.state_dict()


@pytest.mark.parametrize("wrong", [0, -1.0, math.inf, math.nan, [1.0, 0.0], "many", [1.0, "auto"]])
def test_a_weight_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="pos_weight must be"):
        BinaryCrossEntropy(pos_weight=wrong)
