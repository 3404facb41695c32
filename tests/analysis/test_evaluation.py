"""Numbers of an evaluation against naive loops."""

import numpy as np
import pytest
import torch

from mlcl import analysis
from mlcl.analysis.evaluation import LEAST_IMAGES, Companion, Errors
from mlcl.metrics import average_precision


@pytest.fixture
def split():
    """40 images, 5 classes, ties, unknown entries, and a class without positives."""
    rng = np.random.default_rng(3)
    probabilities = rng.integers(0, 20, (40, 5)) / 20
    targets = (rng.random((40, 5)) < 0.2 + 0.5 * probabilities).astype(np.int8)
    targets[rng.random((40, 5)) < 0.1] = -1
    targets[:, 4] = 0
    return probabilities, targets, np.array([0.5, 0.2, 0.7, 0.99, 0.5])


def test_decisions_as_a_loop_says(split):
    probabilities, targets, thresholds = split
    table = analysis.decisions(probabilities, targets, thresholds)
    for k in range(5):
        rows = [(p >= thresholds[k], t == 1) for p, t in zip(probabilities[:, k], targets[:, k], strict=True) if t >= 0]
        hits, claimed, present = sum(p and t for p, t in rows), sum(p for p, _ in rows), sum(t for _, t in rows)
        assert (table.predicted[k], table.positives[k]) == (claimed, present)
        assert table.precision[k] == (hits / claimed if claimed else 0)
        if present:
            assert table.recall[k] == hits / present
            assert table.f1[k] == pytest.approx(2 * hits / (claimed + present))
        else:
            assert np.isnan(table.recall[k])
            assert np.isnan(table.f1[k])


def test_curve_as_a_loop_says_and_its_area_is_ap(split):
    probabilities, targets, thresholds = split
    for k in range(4):
        known = targets[:, k] >= 0
        scores, present = probabilities[known, k], targets[known, k] == 1
        curve = analysis.pr_curve(probabilities[:, k], targets[:, k], thresholds[k])
        levels = sorted(set(scores), reverse=True)
        assert curve.scores.tolist() == levels
        for level, recall, precision in zip(levels, curve.recall, curve.precision, strict=True):
            assert recall == present[scores >= level].sum() / present.sum()
            assert precision == present[scores >= level].mean()
        area = (np.diff(curve.recall, prepend=0) * curve.precision).sum()
        ap = average_precision(torch.tensor(probabilities[:, [k]]), torch.tensor(targets[:, [k]]))
        assert area == pytest.approx(ap.item())
        chosen = scores >= thresholds[k]
        if chosen.any():
            assert curve.point == (present[chosen].sum() / present.sum(), present[chosen].mean())
        else:
            assert curve.point is None


def test_reliability_as_a_loop_says(split):
    probabilities, targets, _ = split
    result = analysis.reliability(probabilities, targets, bins=10)
    entries = [(p, t) for p, t in zip(probabilities.flat, targets.flat, strict=True) if t >= 0]
    assert result.count.sum() == len(entries)
    error = 0.0
    for place in range(10):
        inside = [(p, t) for p, t in entries if min(int(p * 10), 9) == place]
        assert result.count[place] == len(inside)
        if inside:
            assert result.probability[place] == pytest.approx(np.mean([p for p, _ in inside]))
            assert result.share[place] == pytest.approx(np.mean([t for _, t in inside]))
            error += abs(np.sum([t - p for p, t in inside])) / len(entries)
    assert result.error == pytest.approx(error)


def test_cooccurrence_as_a_loop_says(split):
    probabilities, targets, thresholds = split
    predicted = probabilities >= thresholds
    counts = analysis.co_occurrence(predicted, targets)
    for a in range(5):
        for b in range(5):
            rows = [n for n in range(40) if targets[n, a] == 1 and targets[n, b] >= 0]
            assert counts.images[a, b] == len(rows)
            assert counts.present[a, b] == sum(targets[n, b] == 1 for n in rows)
            assert counts.predicted[a, b] == sum(predicted[n, b] for n in rows)
            excess = counts.predicted[a, b] - counts.present[a, b]
            if a == b or len(rows) < LEAST_IMAGES:
                assert np.isnan(counts.difference[a, b])
                assert counts.weight[a, b] == 0
            else:
                assert counts.difference[a, b] == excess / len(rows)
                assert counts.weight[a, b] == pytest.approx(excess / len(rows) ** 0.5)


def test_companions_are_more_frequent_than_usual():
    entries = np.zeros((20, 4), dtype=bool)
    entries[:6, 0] = entries[:5, 1] = entries[::2, 2] = True
    images = np.arange(20) < 6
    found = analysis.companions(images, entries, np.ones_like(entries), own=0)
    assert found == [Companion(1, 5, 0.25)]  # class 2 is as frequent as ever, class 0 is the one in question


def test_the_worst_images_and_no_unknown_one():
    scores, targets = np.array([0.9, 0.8, 0.7, 0.2, 0.1, 0.9]), np.array([1, 0, 0, 1, 0, -1])
    assert analysis.worst_errors(scores, targets, most=2) == Errors(absent=[1, 2], present=[3, 0])


def test_pairs_that_deviate_most_and_on_both_sides():
    targets = np.array([[1, 1, 0]] * 6)
    predicted = np.array([[True, False, True]] * 6)
    counts = analysis.co_occurrence(predicted, targets)
    assert {*counts.pairs(9)} == {(0, 2), (1, 2), (0, 1)}  # (1, 0) is right, and class 2 has no image
    assert counts.pairs(1) == [(1, 2), (0, 1)]
    assert counts.strongest(2).tolist() == [0, 1]
