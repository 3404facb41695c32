"""The promises: against loops over every candidate, in exact fractions, and over a thousand random splits."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcl.analysis import conformal
from mlcl.analysis.measures import decide
from mlcl.system import yaml_text


def generated(seed: int, images: int, classes: int = 4, ties: bool = False):
    """Logits and targets; a tenth unknown, a tenth of the images without any label."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    logits = logits.round() if ties else logits
    targets = (torch.rand(images, classes, generator=generator) < (logits - 1).sigmoid()).long()
    targets[torch.rand(images, classes, generator=generator) < 0.1] = -1
    targets[torch.rand(images, generator=generator) < 0.1] = 0
    return logits, targets


def risk(scores, targets, threshold: float, alpha: Fraction) -> bool:
    """Whether n / (n + 1) * mean loss + 1 / (n + 1) <= alpha, by loops; scores and targets are lists of rows."""
    losses = []
    for row, labels in zip(scores, targets, strict=True):
        present = [score for score, label in zip(row, labels, strict=True) if label == 1]
        if present:
            losses.append(Fraction(sum(score < threshold for score in present), len(present)))
    n = len(losses)
    return n > 0 and Fraction(n, n + 1) * (sum(losses) / n) + Fraction(1, n + 1) <= alpha


def highest(scores, targets, alpha: Fraction) -> float:
    """The highest of all scores that keeps the risk; 0 if none does."""
    return max((s for s in {s for row in scores for s in row} if risk(scores, targets, s, alpha)), default=0.0)


@pytest.mark.parametrize("kind", conformal.KINDS)
@given(
    seed=st.integers(0, 10_000), images=st.integers(1, 40), recall=st.sampled_from([0.5, 0.7, 0.9]), ties=st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_they_decide_as_the_highest_of_all_candidates(kind, seed, images, recall, ties):
    logits, targets = generated(seed, images, ties=ties)
    scores, alpha = logits.double().sigmoid(), 1 - Fraction(str(recall))
    ours = conformal.thresholds(scores.numpy(), targets.numpy(), recall, kind)
    if kind == "images":
        best = [highest(scores.tolist(), targets.tolist(), alpha)] * 4
    else:
        pairs = zip(scores.T, targets.T, strict=True)
        best = [highest(score[:, None].tolist(), label[:, None].tolist(), alpha) for score, label in pairs]
    assert (scores.numpy() >= ours).tolist() == (scores.numpy() >= np.array(best)).tolist()
    assert (ours <= best).all() and len(ours) == 4
    below = [max((s for s in scores.flatten().tolist() if s < top), default=0.0) for top in best]
    assert kind == "classes" or all(low < own or own == 0 for own, low in zip(ours, below, strict=True))


@pytest.mark.parametrize("recall", [0.9, 0.95, 0.7, 0.99])
def test_as_many_images_as_it_takes_are_enough(recall):
    """In floats, 1 - 0.9 is below 1/10, and nine images would be too few."""
    n = conformal.fewest(conformal.missed_share(recall))
    assert n == {0.9: 9, 0.95: 19, 0.7: 3, 0.99: 99}[recall]
    scores = np.linspace(0.2, 0.8, n)[:, None]
    for kind in conformal.KINDS:
        (enough,) = conformal.thresholds(scores, np.ones((n, 1)), recall, kind)
        (short,) = conformal.thresholds(scores[1:], np.ones((n - 1, 1)), recall, kind)
        assert 0 < enough <= 0.2 and short == 0


@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("kind", conformal.KINDS)
def test_decisions_are_exactly_those_that_were_chosen(kind, saturated):
    """Also where probabilities are 1 in float64, among neighbours in float32, after a round trip through YAML."""
    logits, targets = generated(5, 200)
    logits = 40 * (logits / 2).tanh()
    logits[:50] = torch.nextafter(logits[50:100], torch.tensor(math.inf))
    if saturated:  # the classes are separated, so the temperature is the lowest there is
        targets = torch.where(targets < 0, -1, (logits > 0).long())
    made = conformal.fit(logits, targets, 0.9, kind)
    scores = made.probabilities(logits)
    columns = [slice(0, 4)] if kind == "images" else [slice(k, k + 1) for k in range(4)]
    for own in columns:
        alpha, rows, labels = Fraction(1, 10), logits[:, own].tolist(), targets[:, own].tolist()
        least = highest(rows, labels, alpha)  # in the order of the logits
        assert risk(rows, labels, least, alpha)
        missed = made.predicted(logits)[:, own].logical_not()
        assert not (missed & (logits[:, own] >= least)).any()
        tied = scores[:, own] == (torch.tensor(least).double() / made.temperature).sigmoid()
        assert torch.equal(~missed, (logits[:, own] >= least) | tied)  # more only where probabilities are the same
        assert saturated or not (tied & (logits[:, own] < least)).any()
    assert saturated == bool((scores == 1).any() and (made.thresholds > 1 - 1e-9).any())
    (stored,) = yaml_text.read(yaml_text.dump([made.thresholds.tolist()]), "here")
    assert stored == made.thresholds.tolist()
    again = decide(logits, torch.tensor(stored, dtype=torch.float64), made.temperature)
    assert torch.equal(again, made.predicted(logits))
    nearly = logits * (1 + 1e-6 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)))
    lost = made.predicted(logits) & ~made.predicted(nearly)  # of logits that come back a little different
    assert lost.sum() <= len(columns)  # the lowest one, if it had a neighbour


def test_nothing_is_too_improbable_to_be_predicted_always():
    """A class of few positives has threshold 0, which a probability of 0 reaches as well."""
    logits, targets = generated(1, 60)
    targets[:, 2] = 0
    targets[:8, 2] = 1  # one too few
    logits[:, 2] -= 1e6
    made = conformal.fit(logits, targets, 0.9, "classes")
    assert made.probabilities(logits)[:, 2].max() == 0 and made.thresholds[2] == 0
    assert made.predicted(logits)[:, 2].all() and not made.predicted(logits)[:, :2].all()
    unknown = conformal.fit(logits, -torch.ones_like(targets), 0.9)
    assert unknown.thresholds.tolist() == [0.0] * 4 and unknown.predicted(logits).all()


def test_what_is_said_to_be_missed():
    predicted = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    targets = torch.tensor([[1, 1], [1, -1], [0, 0], [-1, 1]])
    assert conformal.missed(predicted, targets) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert conformal.missed(predicted, targets, "classes") == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert math.isnan(conformal.missed(predicted, torch.zeros_like(targets)))


@pytest.mark.parametrize("kind", conformal.KINDS)
def test_over_a_thousand_random_splits(kind):
    """The mean is at most alpha, and not much less: 2 / (n + 1), the paper's Theorem 2, of the smallest n."""
    logits, targets = generated(11, 300)
    scores, labels, random, means = logits.double().sigmoid().numpy(), targets.numpy(), np.random.default_rng(0), []
    for _ in range(1000):
        order = random.permutation(300)
        fit, held = order[:200], order[200:]
        limits = conformal.thresholds(scores[fit], labels[fit], 0.8, kind)
        missed = (labels[held] == 1) & (scores[held] < limits)
        axis = {"images": 1, "classes": 0}[kind]
        count = (labels[held] == 1).sum(axis)
        means.append((missed.sum(axis)[count > 0] / count[count > 0]).mean())
    mean, error = np.mean(means), np.std(means) / math.sqrt(1000)
    fewest = {"images": (labels == 1).any(1), "classes": (labels == 1)}[kind].sum(0).min() * 2 / 3
    assert 0.2 - 2 / fewest - 3 * error <= mean <= 0.2 + 3 * error
    assert 0.17 < mean


@pytest.mark.parametrize(("recall", "kind"), [(0.9, "image"), (1.0, "images"), (0.0, "classes"), (math.nan, "images")])
def test_wrong_promises(recall, kind):
    with pytest.raises(ValueError, match="expected a recall"):
        conformal.thresholds(np.zeros((2, 1)), np.ones((2, 1)), recall, kind)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), share=st.sampled_from([0.05, 0.1, 0.3]), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_which_energies_are_unfamiliar(seed, n, share, ties):
    """Those strictly below the r-th smallest, counted in a loop."""
    energies = 5 + np.random.default_rng(seed).standard_normal(n)
    energies = energies.round() if ties else energies
    rank = max(r for r in range(n + 1) if Fraction(r, n + 1) <= Fraction(str(share)))
    assert (rank == 0) == (n < conformal.fewest(share))
    if rank == 0:
        with pytest.raises(ValueError, match="a share of"):
            conformal.familiar_from(energies, share)
        return
    threshold, chosen = conformal.familiar_from(energies, share), sorted(energies.tolist())[rank - 1]
    flagged = [energy for energy in energies if energy < threshold]
    assert flagged == [energy for energy in energies if energy < chosen] and threshold <= chosen
    assert len(flagged) <= rank - 1 and (ties or len(flagged) == rank - 1)


def test_how_often_a_familiar_picture_raises_an_alarm():
    """With n = 59 and 5 %, the chance is 3 in 60: mean of 1,000 random splits."""
    energies, random = np.random.default_rng(1).gamma(3.0, size=200), np.random.default_rng(2)
    shares = []
    for _ in range(1000):
        order = random.permutation(200)
        shares.append((energies[order[59:]] < conformal.familiar_from(energies[order[:59]], 0.05)).mean())
    assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / math.sqrt(1000) and np.mean(shares) > 0.03
