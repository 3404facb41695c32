"""Thresholds against brute force, temperature against a grid, calibration error against a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcl.analysis import thresholds
from mlcl.metrics import f1_family


def scored(seed: int, images: int = 200, classes: int = 4, scale: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(images, classes, generator=generator) - torch.linspace(0, 2, classes)
    targets = (torch.rand(images, classes, generator=generator) < truth.sigmoid()).long()
    targets[torch.rand(images, classes, generator=generator) < 0.1] = -1
    return scale * truth, targets


def brute(probabilities, labels, target, level):
    """The best of every possible threshold, by loops."""
    found = []
    for threshold in sorted({0.0, *probabilities.tolist()}):
        chosen = probabilities > threshold if threshold else probabilities >= 0
        hits = int((chosen & labels).sum())
        precision, recall = hits / max(int(chosen.sum()), 1), hits / int(labels.sum())
        found.append((2 * precision * recall / max(precision + recall, 1e-12), precision, recall, threshold))
    if target == "f1":
        return max(f1 for f1, *_ in found)
    if target == "precision":  # the highest recall among those that are precise enough
        enough = [recall for _, precision, recall, _ in found if precision >= level]
        return max(enough) if enough else None
    return max(precision for _, precision, recall, _ in found if recall >= level)


@pytest.mark.parametrize(("target", "level"), [("f1", None), ("precision", 0.7), ("recall", 0.8)])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_a_class_alone_gets_its_best_threshold(target, level, seed):
    logits, targets = scored(seed, images=40, classes=1)
    targets[0] = 1
    made = thresholds.fit(logits, targets, target, level, shrink=0)
    known = targets[:, 0] >= 0
    probabilities, labels = made.probabilities(logits)[known, 0], targets[known, 0] == 1
    chosen = made.predicted(logits)[known, 0]
    hits = int((chosen & labels).sum())
    precision, recall = hits / max(int(chosen.sum()), 1), hits / int(labels.sum())
    best = brute(probabilities, labels, target, level)
    if target == "f1":
        assert 2 * precision * recall / max(precision + recall, 1e-12) == pytest.approx(best)
    elif target == "recall":
        assert recall >= level
    elif best is not None:
        assert precision >= level and recall == pytest.approx(best)


def test_few_positives_stay_near_the_global_threshold():
    logits, targets = scored(0, images=2000, classes=2)
    targets[3:, 1] = 0  # at most three positives
    targets[:3, 1] = 1
    own = thresholds.fit(logits, targets, shrink=0).thresholds
    shrunk = thresholds.fit(logits, targets, shrink=10).thresholds
    distant = thresholds.fit(logits, targets, shrink=1e9).thresholds
    assert distant[0] == pytest.approx(distant[1])  # both the global one
    assert abs(shrunk[1] - distant[1]) < 0.5 * abs(own[1] - distant[1])
    assert abs(shrunk[0] - own[0]) < 0.1 * abs(distant[0] - own[0]) + 1e-3


@pytest.mark.parametrize("shrink", [0.0, 10.0, 1e6])
def test_caution_never_costs_the_recall_that_was_asked_for(shrink):
    logits, targets = scored(6, images=400)
    made = thresholds.fit(logits, targets, "recall", 0.9, shrink)
    chosen, positive = made.predicted(logits), targets == 1
    assert ((chosen & positive).sum(0) / positive.sum(0) >= 0.9).all()
    own, cautious = (thresholds.fit(logits, targets, "precision", 0.7, s).thresholds for s in (0.0, shrink))
    assert (cautious >= own - 1e-12).all()


def test_a_class_without_positives_gets_the_global_threshold():
    logits, targets = scored(1)
    targets[:, 2] = 0
    made = thresholds.fit(logits, targets)
    assert made.thresholds[2] == pytest.approx(thresholds.fit(logits, targets, shrink=1e12).thresholds[2])
    nothing = thresholds.fit(logits, torch.zeros_like(targets))
    assert (nothing.temperature, nothing.thresholds.tolist()) == (1.0, [0.5] * 4)
    unknown = thresholds.fit(logits, -torch.ones_like(targets))
    assert (unknown.temperature, unknown.thresholds.tolist()) == (1.0, [0.5] * 4)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_temperature_is_the_best_of_a_grid(scale):
    logits, targets = scored(2, images=1000, scale=scale)
    temperature = thresholds.fit_temperature(logits, targets)
    known = targets >= 0

    def loss(value: float) -> float:
        values = logits[known].double() / value
        return float(torch.nn.functional.binary_cross_entropy_with_logits(values, targets[known].double()))

    grid = temperature * np.geomspace(0.5, 2, 41)
    assert loss(temperature) <= min(map(loss, grid)) + 1e-12
    assert temperature == pytest.approx(scale, rel=0.15)  # the labels were drawn at temperature 1


def test_temperature_at_its_ends():
    targets = torch.tensor([[1], [0], [1], [0]])
    assert thresholds.fit_temperature(torch.tensor([[1.0], [-1.0], [2.0], [-3.0]]), targets) == 0.01
    assert thresholds.fit_temperature(torch.tensor([[-1.0], [1.0], [-2.0], [3.0]]), targets) == 100


def test_calibration_error_equals_a_loop():
    logits, targets = scored(3)
    probabilities = logits.double().sigmoid()
    total = known = 0.0
    for low in range(15):
        inside = [
            (float(p), float(t == 1))
            for row, labels in zip(probabilities, targets, strict=True)
            for p, t in zip(row, labels, strict=True)
            if t >= 0 and (low / 15 <= p < (low + 1) / 15 or (low == 14 and p == 1))
        ]
        known += len(inside)
        total += abs(sum(p for p, _ in inside) - sum(t for _, t in inside))
    assert thresholds.summary(probabilities >= 0.5, probabilities, targets)["ECE"] == pytest.approx(total / known)
    certain = torch.ones(3, 2)
    assert thresholds.summary(certain > 0, certain, certain)["ECE"] == 0


def test_no_image_is_scored_by_a_calibration_that_saw_it():
    """The fitted function is handed the images of four folds; the rows it is then used on are the others."""
    logits, targets = scored(4, images=53)
    logits[:, 0] = torch.arange(53)  # marks the image
    seen, used = [], []

    class Spy(thresholds.Calibration):
        def predicted(self, part):
            used.append({int(value) for value in part[:, 0]})
            return super().predicted(part)

    def fitted(part, labels):
        seen.append({int(value) for value in part[:, 0]})
        return Spy(1.0, torch.full((4,), 0.5, dtype=torch.float64))

    predicted, probabilities = thresholds.cross_fitted(logits, targets, fitted)
    assert len(seen) == len(used) == 5
    for fit_on, scored_on in zip(seen, used, strict=True):
        assert not fit_on & scored_on and fit_on | scored_on == set(range(53))
    assert set.union(*used) == set(range(53))
    torch.testing.assert_close(probabilities, logits.double().sigmoid())
    assert torch.equal(predicted, probabilities >= 0.5)


def test_it_helps_where_probabilities_are_low():
    """Rare classes: nothing reaches 0.5, and F1 there is 0."""
    logits, targets = scored(5, images=3000, classes=6)
    half = 1500
    made = thresholds.fit(logits[:half] - 1, targets[:half])
    plain = f1_family((logits[half:] - 1).sigmoid() >= 0.5, targets[half:])
    tuned = f1_family(made.predicted(logits[half:] - 1), targets[half:])
    assert tuned["CF1"] > plain["CF1"] + 0.05


@pytest.mark.parametrize(("target", "level"), [("f1", 0.5), ("precision", None), ("accuracy", None)])
def test_wrong_targets(target, level):
    with pytest.raises(ValueError, match="target must be"):
        thresholds.fit(torch.zeros(2, 1), torch.zeros(2, 1), target, level)


@pytest.mark.parametrize("shift", [-15.0, -30.0, -300.0, -5000.0])
@pytest.mark.parametrize(("target", "level"), [("f1", None), ("precision", 0.5), ("recall", 0.8)])
def test_a_class_of_very_low_probabilities_is_decided_between_its_scores(shift, target, level):
    """Its order is that of the class before, so its decisions are those of the class alone; never all, never none."""
    logits, targets = scored(7, images=400)
    logits[:, 1] = 2 * logits[:, 1] + shift
    made = thresholds.fit(logits, targets, target, level)
    alone = thresholds.fit(logits[:, 1:2] - shift, targets[:, 1:2], target, level)
    assert ((made.thresholds > 0) & (made.thresholds < 1)).all()
    chosen = made.predicted(logits)[:, 1]
    if shift > -700 * made.temperature:  # below, a probability is 0
        assert torch.equal(chosen, alone.predicted(logits[:, 1:2] - shift)[:, 0])
    else:
        assert not chosen.any()


def test_a_class_that_is_almost_certain_keeps_its_threshold_below_1():
    logits, targets = scored(8)
    logits[:, 0] += 100_000
    made = thresholds.fit(logits, targets)
    assert ((made.thresholds > 0) & (made.thresholds < 1)).all() and made.predicted(logits)[:, 0].all()
