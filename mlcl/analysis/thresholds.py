"""A threshold per class and a temperature, fitted on images held out of training and test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from torch import Tensor

from mlcl.analysis.evaluation import Floats, pr_curve, reliability
from mlcl.analysis.measures import f1_family

_SHARPEST = 100.0  # 1 / temperature is sought between this and its inverse
# A probability of exactly 0 is never predicted, one of exactly 1 always.
_LEAST, _MOST = float(np.finfo(np.float64).tiny), 1 - float(np.finfo(np.float64).epsneg)


@dataclass(frozen=True)
class Calibration:
    """The fitted values: a class is predicted where sigmoid(logit / temperature) >= its threshold."""

    temperature: float
    thresholds: Tensor  # (K,) float64, between 0 and 1

    def predicted(self, logits: Tensor) -> Tensor:
        """(N, K) bool decisions on logits (N, K)."""
        return self.probabilities(logits) >= self.thresholds

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, K) float64."""
        return (logits.double() / self.temperature).sigmoid()


def fit(
    logits: Tensor, targets: Tensor, target: str = "f1", level: float | None = None, shrink: float = 10.0
) -> Calibration:
    """Fit the temperature, then the thresholds on the probabilities that it gives.

    The log-odds of a class's own threshold, of weight n / (n + ``shrink``) for n positives, and of the global one, from
    all entries pooled, are averaged: with few positives the best threshold is mostly chance. A class whose scores all
    lie on one side of the global threshold takes its own alone. A precision target only raises a threshold by this and
    a recall target only lowers it, so that the target is still reached.

    Args:
        logits: (N, K).
        targets: (N, K) integer in {1, 0, -1}; -1 is left out.
        target: ``f1`` (the highest), ``precision`` (the lowest threshold with at least ``level``) or ``recall`` (the
            highest such threshold); where no threshold reaches it, the one that comes closest.
        level: of precision or recall, in (0, 1).
        shrink: number of positives at which own and global threshold count the same; 0 takes the own one.
    """
    if target not in ("f1", "precision", "recall") or (level is None) != (target == "f1"):
        raise ValueError(f"target must be f1, or precision or recall with a level, got {target!r} and {level}")
    temperature = fit_temperature(logits, targets)
    scores = (logits.double() / temperature).sigmoid().numpy()
    truth = targets.numpy()
    if not (truth == 1).any():
        return Calibration(temperature, torch.full((logits.shape[1],), 0.5, dtype=torch.float64))
    pooled = _best(scores.ravel(), truth.ravel(), target, level or 0.0)
    thresholds = []
    for score, label in zip(scores.T, truth.T, strict=True):
        positives = int((label == 1).sum()) if (label == 0).any() else 0  # else the best is to predict it always
        own = _best(score, label, target, level or 0.0) if positives else pooled
        seen = score[label >= 0]
        if positives and seen.min() < pooled <= seen.max():
            weight, odds = positives / (positives + shrink), logit([own, pooled])
            mixed = float(expit(weight * odds[0] + (1 - weight) * odds[1]))
            own = {"f1": mixed, "precision": max(own, mixed), "recall": min(own, mixed)}[target]
        thresholds.append(own)
    return Calibration(temperature, torch.tensor(thresholds, dtype=torch.float64).clamp(_LEAST, _MOST))


def _best(scores: Floats, targets: NDArray[Any], target: str, level: float) -> float:
    """The threshold, midway between two neighbouring scores, that fits the target best."""
    curve = pr_curve(scores, targets)
    thresholds = np.clip((curve.scores + np.append(curve.scores[1:], 0.0)) / 2, _LEAST, _MOST)
    if target == "f1":
        sums = np.maximum(curve.precision + curve.recall, 1e-12)
        return float(thresholds[(2 * curve.precision * curve.recall / sums).argmax()])
    if target == "recall":  # 1 at the lowest threshold
        return float(thresholds[np.flatnonzero(curve.recall >= level)[0]])
    reached = np.flatnonzero(curve.precision >= level)
    return float(thresholds[reached[-1] if len(reached) else curve.precision.argmax()])


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The T in [0.01, 100] with the lowest binary cross-entropy of sigmoid(logits / T) (Guo et al., 2017).

    The cross-entropy over the known entries is convex in 1 / T; its minimum is the root of the derivative.
    """
    known = targets >= 0
    values, labels = logits[known].double().numpy(), (targets[known] == 1).double().numpy()
    if not 0 < labels.sum() < len(labels):
        return 1.0

    def slope(sharpness: float) -> float:
        return float(((expit(sharpness * values) - labels) * values).sum())

    if slope(1 / _SHARPEST) >= 0:  # the logits are no better than chance
        return _SHARPEST
    if slope(_SHARPEST) <= 0:  # they separate the classes without an error
        return 1 / _SHARPEST
    return 1 / float(brentq(slope, 1 / _SHARPEST, _SHARPEST))


def cross_fitted(
    logits: Tensor, targets: Tensor, fitted: Callable[[Tensor, Tensor], Calibration]
) -> tuple[Tensor, Tensor]:
    """Decisions (N, K) bool and probabilities (N, K) float64 by calibrations fitted without the image in question.

    The images are divided at random into five parts; each is scored by a calibration ``fitted`` to the others.
    """
    predicted = torch.zeros(logits.shape, dtype=torch.bool)
    probabilities = torch.zeros(logits.shape, dtype=torch.float64)
    order = np.random.default_rng(0).permutation(len(logits))
    for part in np.array_split(order, min(5, len(order))):
        rest = np.setdiff1d(order, part)
        made = fitted(logits[rest], targets[rest])
        predicted[part], probabilities[part] = made.predicted(logits[part]), made.probabilities(logits[part])
    return predicted, probabilities


def summary(predicted: Tensor, probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    """CP, CR, CF1, OF1 and the expected calibration error (ECE), in [0, 1]."""
    values = f1_family(predicted, targets)
    error = reliability(probabilities.numpy(), targets.numpy()).error
    return {**{name: float(values[name]) for name in ("CP", "CR", "CF1", "OF1")}, "ECE": error}
