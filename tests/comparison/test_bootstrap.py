"""Average precision under image weights against the same rows repeated; resampled seeds against their formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcl.comparison.bootstrap import image_weights, resampled_ap, resampled_mean, widening
from mlcl.metrics import average_precision

VARIANTS = ["none", "envelope", "11point"]


@st.composite
def weighted(draw):
    """Few distinct scores, so that most are tied; unknown entries; images drawn 0 to 3 times."""
    n, k = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    rows = lambda low, high: st.lists(st.lists(st.integers(low, high), min_size=k, max_size=k), min_size=n, max_size=n)  # noqa: E731
    weights = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    return torch.tensor(draw(rows(-3, 3))).float(), torch.tensor(draw(rows(-1, 1))), torch.tensor(weights)


@pytest.mark.parametrize("interpolation", VARIANTS)
@given(case=weighted())
@settings(max_examples=50, deadline=None)
def test_a_weight_is_a_repeated_row(case, interpolation):
    scores, targets, weights = case
    found = resampled_ap(scores, targets, interpolation, [torch.stack([torch.ones(len(weights)), weights], 1)])
    rows = torch.arange(len(weights)).repeat_interleave(weights)
    for column, repeated in enumerate((slice(None), rows)):
        expected = average_precision(scores[repeated], targets[repeated], interpolation)
        np.testing.assert_allclose(found[column], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("interpolation", VARIANTS)
def test_drawn_images_of_a_realistic_size(interpolation):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(-1, 2, (700, 5), generator=generator)
    targets[:, 4] = 0
    scores = torch.randn(700, 5, generator=generator).half().float() + targets  # half precision ties
    weights = torch.cat(list(image_weights(700, 3, seed=5)), 1)
    found = resampled_ap(scores, targets, interpolation, [weights])
    for column in range(3):
        rows = torch.arange(700).repeat_interleave(weights[:, column].long())
        expected = average_precision(scores[rows], targets[rows], interpolation)
        np.testing.assert_allclose(found[column], expected, rtol=0, atol=1e-12)
    assert found[:, 4].isnan().all() and not found[:, :4].isnan().any()


def test_images_are_drawn_with_replacement_and_from_the_seed(monkeypatch):
    weights = torch.cat(list(image_weights(50, 400, seed=3)), 1)
    assert weights.shape == (50, 400) and (weights.sum(0) == 50).all()
    assert 0.9 < float(weights.var()) < 1.05  # binomial: 1 - 1 / N
    assert float((weights == 0).float().mean()) == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)
    monkeypatch.setattr("mlcl.comparison.bootstrap._ENTRIES", 350)  # chunks of 7
    chunks = list(image_weights(50, 400, seed=3))
    assert [c.shape[1] for c in chunks] == [7] * 57 + [1] and torch.equal(torch.cat(chunks, 1), weights)
    assert not torch.equal(next(image_weights(50, 7, seed=4)), chunks[0])


@pytest.mark.parametrize("runs", [2, 5])
def test_the_variance_over_runs_is_unbiased(runs):
    values = torch.randn(runs, 1, generator=torch.Generator().manual_seed(runs)).double()
    drawn = resampled_mean(values.expand(runs, 20_000), np.random.default_rng(0))
    assert float(drawn.var()) == pytest.approx(float(values.var() / runs), rel=0.03)
    assert float(drawn.mean()) == pytest.approx(float(values.mean()), abs=0.02)


def test_few_runs_widen_the_interval_as_student_says():
    assert widening([2, 2], 0.95) == pytest.approx(4.3027 / 1.96, rel=1e-4)  # two degrees of freedom
    assert widening([5, 5], 0.95) == pytest.approx(2.3060 / 1.96, rel=1e-4)
    assert widening([1, 1], 0.95) == 1  # of single runs nothing is known
    values = torch.randn(3, 1, generator=torch.Generator().manual_seed(0)).double().expand(3, 1000)
    narrow, wide = (resampled_mean(values, np.random.default_rng(0), factor) for factor in (1.0, 2.0))
    torch.testing.assert_close(wide - values.mean(0), 2 * (narrow - values.mean(0)))


def test_a_single_run_is_taken_as_it_is():
    values = torch.randn(1, 6, 3)
    assert torch.equal(resampled_mean(values, np.random.default_rng(0)), values[0])
