"""Which labels are probably wrong: against slow loops, and on labels of which some were flipped."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from mlcl.analysis import label_issues
from mlcl.analysis.measures import average_precision
from mlcl.analysis.probe import held_out_logits


def data(images: int = 400, classes: int = 6, seed: int = 0):
    """Logits that know the truth well, and targets of which some are unknown; a class that is always present."""
    random = np.random.default_rng(seed)
    truth = random.random((images, classes)) < [0.5, 0.3, 0.2, 0.1, 0.05, 1.0][:classes]
    logits = 4.0 * truth - 2 + random.normal(size=truth.shape) + np.linspace(-2, 2, classes)
    return logits.astype(np.float32), np.where(random.random(truth.shape) < 0.1, -1, truth).astype(np.int8)


def test_confident_entries_by_a_loop_over_all_of_them():
    logits, targets = data()
    wrong = np.random.default_rng(2).random(targets.shape) < 0.05
    targets = np.where(wrong & (targets >= 0), 1 - targets, targets)
    probabilities = expit(logits.astype(np.float64))
    expected = np.zeros(targets.shape, dtype=bool)
    for k in range(targets.shape[1]):
        present = [p for p, t in zip(probabilities[:, k], targets[:, k], strict=True) if t == 1]
        absent = [1 - p for p, t in zip(probabilities[:, k], targets[:, k], strict=True) if t == 0]
        if not present or not absent:
            continue
        needed = {1: np.mean(present), 0: np.mean(absent)}
        for i, (p, given) in enumerate(zip(probabilities[:, k], targets[:, k], strict=True)):
            reached = {label: (p if label else 1 - p) for label in (0, 1) if (p if label else 1 - p) > needed[label]}
            if given >= 0 and reached:
                expected[i, k] = max(reached, key=reached.__getitem__) != given
    assert 0 < expected.sum() < 300
    np.testing.assert_array_equal(label_issues.confident(probabilities, targets), expected)


def test_the_calibration_has_the_lowest_penalised_cross_entropy():
    logits, targets = data(classes=3)
    slope, shifts = label_issues.calibrate(logits, targets)

    def loss(slope: float, shifts: np.ndarray, common: float) -> float:
        total = 0.0
        for row, labels in zip(logits.astype(np.float64), targets, strict=True):
            for k, label in enumerate(labels):
                p = 1 / (1 + np.exp(-(slope * row[k] + shifts[k])))
                total -= 0.0 if label < 0 else np.log(p if label else 1 - p)
        return total + 15 * sum((shift - common) ** 2 for shift in shifts)

    commons = np.linspace(shifts.min(), shifts.max(), 41)
    found = min(loss(slope, shifts, common) for common in commons)
    for change in (0.02, -0.02):
        assert found < min(loss(slope + change, shifts, common) for common in commons)
        for k in range(3):
            assert found < min(loss(slope, shifts + change * np.eye(3)[k], common) for common in commons)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_flipped_labels_come_first_whatever_the_scale_of_the_scores(scale: float):
    logits, targets = data(1000)
    random = np.random.default_rng(1)
    flipped = (random.random(targets.shape) < 0.05) & (targets >= 0)
    noisy = np.where(flipped, 1 - targets, targets).astype(np.int8)
    found = label_issues.find(logits * scale, noisy, 100)
    assert len(found.rows) == 100 and (np.diff(found.doubt) <= 0).all() and (found.doubt > 0.5).all()
    assert flipped[found.rows, found.classes].mean() > 0.9
    again = label_issues.find(logits[:, ::-1] * scale, noisy[:, ::-1], 100)  # the order of the classes says nothing
    assert {*zip(again.rows, 5 - again.classes, strict=True)} == {*zip(found.rows, found.classes, strict=True)}


@pytest.mark.parametrize("targets", [np.ones((9, 2)), np.full((9, 2), -1), np.zeros((9, 2)), np.zeros((0, 2))])
def test_without_labels_of_both_kinds_there_is_nothing_to_doubt(targets: np.ndarray):
    random = np.random.default_rng(0)
    assert not len(label_issues.find(random.normal(size=targets.shape), targets.astype(np.int8)).rows)


def test_a_network_that_says_the_same_of_all_images_doubts_no_label():
    targets = (np.random.default_rng(0).random((200, 3)) < 0.6).astype(np.int8)
    assert not len(label_issues.find(np.full((200, 3), 0.3), targets).rows)


def test_held_out_logits_know_nothing_of_the_own_label_nor_of_a_copy():
    generator = torch.Generator().manual_seed(0)
    features, chance = torch.randn(60, 200, generator=generator), torch.rand(60, 4, generator=generator) < 0.5
    copies, twice = torch.cat([features, features]), torch.cat([chance, chance]).to(torch.int8)
    together = torch.arange(60).repeat(2)
    apart, leaking = held_out_logits(copies, twice, together), held_out_logits(copies, twice, torch.arange(120))
    assert apart is not None and leaking is not None
    assert float(average_precision(apart, twice).mean()) < 0.65  # chance is 0.5
    assert float(average_precision(leaking, twice).mean()) > 0.9  # a copy among the others gives the label away
    useful = (features[:, :4] > 0).to(torch.int8)
    known = held_out_logits(features[:, :8], useful, torch.arange(60))
    assert known is not None and float(average_precision(known, useful).mean()) > 0.85
    assert held_out_logits(features[:1], useful[:1], torch.tensor([7])) is None
