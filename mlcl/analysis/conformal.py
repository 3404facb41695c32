"""Thresholds with a promise about missed labels, by conformal risk control (Angelopoulos et al., ICLR 2024).

Their choice of lambda (arXiv 2208.02814) with losses of at most B = 1: of the thresholds, the highest with
n / (n + 1) * (mean loss of n calibration images) + 1 / (n + 1) <= alpha. The loss grows with the threshold, so the
expected loss of a new image from the same distribution is at most alpha. The expectation is over both the calibration
images and the new one.
"""

import math
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcl.analysis.evaluation import Floats
from mlcl.analysis.thresholds import Calibration, fit_temperature

KINDS = ("images", "classes")


def fit(logits: Tensor, targets: Tensor, recall: float, kind: str = "images") -> Calibration:
    """Fit the temperature as always, then thresholds on the probabilities that it gives; see :func:`thresholds`.

    The temperature keeps the order of the scores, so it leaves the promise as it is. Logits and targets are (N, K).
    """
    temperature = fit_temperature(logits, targets)
    plain = Calibration(temperature, torch.zeros(logits.shape[1], dtype=torch.float64))
    chosen = thresholds(plain.probabilities(logits).numpy(), targets.numpy(), recall, kind)
    return Calibration(temperature, torch.from_numpy(chosen))


def thresholds(scores: Floats, targets: NDArray[Any], recall: float, kind: str = "images") -> Floats:
    """The highest thresholds (K,) float64 that keep the promise; a label is predicted where score >= threshold.

    ``images``: all classes share one. The loss of an image is the share of its present labels that are missed; images
    without a present label have nothing to miss, and the promise is not about them. ``classes``: each class has its
    own, from the images in which it is present, and the loss is 1 where it is missed.

    A threshold lies midway between the lowest score that must be predicted and the next lower score of all N images, so
    that scores which come back a little different do not cost a label. It is 0, which is always reached, where too few
    images bear the promise (:func:`fewest`).

    Args:
        scores: (N, K) probabilities in [0, 1]. Where they are equal, as at exactly 1, they are predicted together.
        targets: (N, K) integer in {1, 0, -1}; -1 is left out.
        recall: 1 - alpha, in (0, 1), taken as the decimal number that it is printed as.
        kind: one of ``KINDS``.
    """
    if kind not in KINDS or not 0 < recall < 1:
        raise ValueError(f"expected a recall in (0, 1) and one of {', '.join(KINDS)}, got {recall} and {kind!r}")
    alpha, present = missed_share(recall), targets == 1
    if kind == "classes":
        columns = [(column[own], column, int(own.sum())) for column, own in zip(scores.T, present.T, strict=True)]
        return np.array([_highest(own, [1] * n, math.floor(alpha * (n + 1) - 1), every) for own, every, n in columns])
    labels = present.sum(1)
    counts = labels[present.any(1)].tolist()
    whole = math.lcm(*counts)  # in whole numbers, sums are exact
    losses = [whole // count for count in labels[np.nonzero(present)[0]].tolist()]
    allowed = math.floor(whole * (alpha * (len(counts) + 1) - 1))
    return np.full(scores.shape[1], _highest(scores[present], losses, allowed, scores.ravel()))


def _highest(scores: Floats, losses: list[int], allowed: int, every: Floats) -> float:
    """The highest threshold at which the losses of the scores below it sum to no more than is allowed."""
    if allowed < 0:
        return 0.0
    order = np.argsort(scores)
    sums = accumulate(losses[row] for row in order)
    least = next(float(scores[row]) for row, total in zip(order, sums, strict=True) if total > allowed)
    return _midway(least, every, 0.0)


def _midway(least: float, every: Floats, lowest: float) -> float:
    """Between a score and the next lower one, which is ``lowest`` where there is none; above it in any case."""
    below = every[every < least]
    lower = float(below.max()) if len(below) else lowest
    return middle if (middle := (lower + least) / 2) > lower else least


def familiar_from(energies: Floats, false_alarms: float) -> float:
    """The energy below which an image counts as unfamiliar, from those of held-out images (N,).

    Of N + 1 exchangeable energies, a given one is strictly below the floor((N + 1) share)-th smallest of the others
    with a probability of at most this share, ``false_alarms``. The threshold lies midway between that energy and the
    next lower one, so the same held-out images are flagged: floor((N + 1) share) - 1, if no two energies are equal.

    Raises:
        ValueError: with fewer images than :func:`fewest`, or a share outside (0, 1).
    """
    rank = math.floor((len(energies) + 1) * Fraction(str(false_alarms)))
    if not 0 < false_alarms < 1 or rank < 1:
        raise ValueError(f"a share of {false_alarms} of {len(energies)} images")
    least = float(np.sort(energies)[rank - 1])
    return _midway(least, energies, least)


def missed_share(recall: float) -> Fraction:
    """Alpha = 1 - recall, exactly: 1 - 0.9 is 1/10, not a float just below it."""
    return 1 - Fraction(str(recall))


def fewest(share: float | Fraction) -> int:
    """How many images a promise of at most this share takes: with fewer, 1 / (n + 1) alone is above it."""
    return math.ceil(1 / Fraction(str(share))) - 1


def missed(predicted: Tensor, targets: Tensor, kind: str = "images") -> float:
    """The missed share that a promise of this kind is about: the mean over images, or over classes; else NaN.

    Args:
        predicted: (N, K) bool.
        targets: (N, K) integer in {1, 0, -1}.
        kind: ``images`` averages over those with a present label, ``classes`` over those that are present.
    """
    axis, present = {"images": 1, "classes": 0}[kind], targets == 1
    lost, count = (entries.sum(axis).double() for entries in (present & ~predicted, present))
    return float((lost / count)[count > 0].mean())
