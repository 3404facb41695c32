"""Thresholds per class and a temperature, fitted on images that neither training nor the test has seen."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from torch import Tensor

from mlcl.analysis.evaluation import reliability
from mlcl.metrics import f1_family

Array = NDArray[np.float64]
TARGETS = ("f1", "precision", "recall")
_SHARPEST = 100.0  # 1 / temperature is sought between this and its inverse


@dataclass(frozen=True)
class Calibration:
    """What is fitted: a label counts as predicted where sigmoid(logit / temperature) >= its class's threshold."""

    temperature: float
    thresholds: Tensor  # (K,) float64

    def predicted(self, logits: Tensor) -> Tensor:
        """(N, K) bool decisions on logits (N, K)."""
        return self.probabilities(logits) >= self.thresholds

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, K) float64."""
        return (logits.double() / self.temperature).sigmoid()


def fit(
    logits: Tensor, targets: Tensor, target: str = "f1", level: float | None = None, shrink: float = 10.0
) -> Calibration:
    """Temperature, then thresholds on the probabilities that it gives.

    A class's own threshold is the one that reaches the target on its images; the global one reaches it on all entries
    pooled. Both are mixed as log-odds, the own one with weight n / (n + ``shrink``) for n positives: with few of them
    the best threshold is mostly chance. For a wanted precision it is only ever raised so, for a wanted recall only
    lowered: away from what was asked for it would not be moved by caution.

    Args:
        logits: (N, K).
        targets: (N, K) integer in {1, 0, -1}; -1 is left out.
        target: ``f1`` (the highest), ``precision`` (the lowest threshold that has at least ``level``) or ``recall``
            (the highest one that does); where no threshold does, the one that comes closest.
        level: of precision or recall, in (0, 1).
        shrink: number of positives at which own and global threshold count the same; 0 takes the own one.

    Raises:
        ValueError: for another target, or one without its level.
    """
    if target not in TARGETS or (level is None) != (target == "f1"):
        raise ValueError(f"target must be f1, or precision or recall with a level, got {target!r} and {level}")
    temperature = fit_temperature(logits, targets)
    scores = (logits.double() / temperature).sigmoid().numpy()
    truth = targets.numpy()
    known, choose = truth >= 0, _CHOOSERS[target]
    if not (truth == 1).any():
        return Calibration(temperature, torch.full((logits.shape[1],), 0.5, dtype=torch.float64))
    pooled = choose(scores[known], truth[known] == 1, level or 0.0)
    thresholds = []
    for score, label, seen in zip(scores.T, truth.T, known.T, strict=True):
        positives = int((label == 1).sum())
        own = choose(score[seen], label[seen] == 1, level or 0.0) if positives else pooled
        weight = positives / (positives + shrink) if positives else 0.0
        mixed = float(expit(weight * _logit(own) + (1 - weight) * _logit(pooled)))
        thresholds.append({"f1": mixed, "precision": max(own, mixed), "recall": min(own, mixed)}[target])
    return Calibration(temperature, torch.tensor(thresholds, dtype=torch.float64))


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The T > 0 with the lowest binary cross-entropy of sigmoid(logits / T) over the known entries (Guo et al., 2017).

    In 1 / T this is convex, so the root of its derivative is the answer; between 0.01 and 100.
    """
    known = targets >= 0
    values, labels = logits[known].double().numpy(), (targets[known] == 1).double().numpy()
    if not 0 < labels.sum() < len(labels):
        return 1.0

    def slope(sharpness: float) -> float:
        return float(((expit(sharpness * values) - labels) * values).sum())

    if slope(1 / _SHARPEST) >= 0:  # the logits say nothing, or the contrary
        return _SHARPEST
    if slope(_SHARPEST) <= 0:  # they separate the classes without an error
        return 1 / _SHARPEST
    return 1 / float(brentq(slope, 1 / _SHARPEST, _SHARPEST))


def cross_fitted(
    logits: Tensor, targets: Tensor, fitted: Callable[[Tensor, Tensor], Calibration], folds: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Decisions and probabilities for images that the calibration behind them has not seen.

    Args:
        logits: (N, K).
        targets: (N, K).
        fitted: makes a calibration from a part of them.
        folds: parts; each is scored by a calibration on the others.
        seed: of the division.

    Returns:
        (N, K) bool and (N, K) float64.
    """
    predicted = torch.zeros(logits.shape, dtype=torch.bool)
    probabilities = torch.zeros(logits.shape, dtype=torch.float64)
    order = np.random.default_rng(seed).permutation(len(logits))
    for part in np.array_split(order, min(folds, len(order))):
        rest = np.setdiff1d(order, part)
        made = fitted(logits[rest], targets[rest])
        predicted[part], probabilities[part] = (
            made.predicted(logits[part]),
            made.probabilities(logits[part]),
        )
    return predicted, probabilities


def summary(predicted: Tensor, probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    """CP, CR, CF1, OF1 and the expected calibration error (ECE), in [0, 1]."""
    values = f1_family(predicted, targets)
    return {
        **{name: float(values[name]) for name in ("CP", "CR", "CF1", "OF1")},
        "ECE": reliability(probabilities.numpy(), targets.numpy()).error,
    }


def _candidates(scores: Array, positive: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Every threshold that matters (between two neighbouring scores), its precision and its recall."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(positive[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # the last of equal scores
    below = np.append(ranked[1:], 0.0)
    thresholds = ((ranked + below) / 2)[last]
    return thresholds, (hits / np.arange(1, len(hits) + 1))[last], (hits / max(hits[-1], 1))[last]


def _best_f1(scores: Array, positive: NDArray[np.bool_], level: float) -> float:
    thresholds, precision, recall = _candidates(scores, positive)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1.argmax()])


def _at_precision(scores: Array, positive: NDArray[np.bool_], level: float) -> float:
    thresholds, precision, _ = _candidates(scores, positive)
    reached = np.flatnonzero(precision >= level)
    return float(thresholds[reached[-1] if len(reached) else precision.argmax()])


def _at_recall(scores: Array, positive: NDArray[np.bool_], level: float) -> float:
    thresholds, _, recall = _candidates(scores, positive)
    return float(thresholds[np.flatnonzero(recall >= level)[0]])


_CHOOSERS = {"f1": _best_f1, "precision": _at_precision, "recall": _at_recall}


def _logit(probability: float) -> float:
    return float(logit(min(max(probability, 1e-9), 1 - 1e-9)))
