"""Numbers for reports and figures: pure functions of probabilities, targets and thresholds.

Probabilities are (N, K) float64, targets (N, K) integer in {1 present, 0 absent, -1 unknown}, thresholds (K,) float64;
a class is predicted where its probability reaches the threshold. Unknown entries are left out everywhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
LEAST_IMAGES = 5  # of a pair of classes; a share of fewer is mostly chance


@dataclass(frozen=True)
class PRCurve:
    """Precision against recall of one class, one point per distinct score, from the highest score down."""

    scores: Floats  # (P,)
    recall: Floats  # (P,)
    precision: Floats  # (P,)
    point: tuple[float, float] | None  # recall and precision at the threshold; None where nothing is predicted


@dataclass(frozen=True)
class Decisions:
    """Per class, at its threshold; NaN where a number is not defined."""

    positives: Ints  # (K,) images in which the class is present
    predicted: Ints  # (K,) images in which it is predicted, among those where it is known
    precision: Floats  # (K,) 0 for a class that is never predicted, as in CP
    recall: Floats  # (K,) NaN without positives
    f1: Floats  # (K,) NaN without positives


@dataclass(frozen=True)
class Reliability:
    """Probabilities against the share present, over all known entries, in bins of equal width."""

    count: Ints  # (B,)
    probability: Floats  # (B,) mean in the bin; NaN where it is empty
    share: Floats  # (B,) of entries that are present; NaN where it is empty
    error: float  # expected calibration error: mean of |share - probability|, weighted by count


@dataclass(frozen=True)
class CoOccurrence:
    """For each pair, over the images in which class a (row) is present and class b (column) is known."""

    images: Ints  # (K, K) their number
    present: Ints  # (K, K) of them, in how many b is present
    predicted: Ints  # (K, K) of them, in how many b is predicted

    @property
    def difference(self) -> Floats:
        """(K, K) share predicted minus share present; NaN on the diagonal and below ``LEAST_IMAGES``."""
        left_out = (self.images < LEAST_IMAGES) | np.eye(len(self.images), dtype=bool)
        return np.where(left_out, np.nan, (self.predicted - self.present) / np.maximum(self.images, 1))

    @property
    def weight(self) -> Floats:
        """(K, K) the difference times the root of the number of images, which favours neither rare nor common pairs."""
        return np.asarray(np.nan_to_num(self.difference) * np.sqrt(self.images))

    def strongest(self, most: int) -> Ints:
        """The at most ``most`` classes with the largest weights in a pair, by index."""
        weight = np.abs(self.weight)
        largest = np.maximum(weight.max(0), weight.max(1))
        return np.sort(np.argsort(-largest, kind="stable")[:most])

    def pairs(self, most: int) -> list[tuple[int, int]]:
        """The pairs predicted together most too often, then those most too rarely; at most so many of each."""
        order = np.argsort(self.weight, axis=None, kind="stable")
        often = [place for place in order[::-1][:most] if self.weight.flat[place] > 0]
        rarely = [place for place in order[:most] if self.weight.flat[place] < 0]
        return [divmod(int(place), len(self.images)) for place in (*often, *rarely)]


@dataclass(frozen=True)
class Companion:
    """A class that is frequent among the images on which another class is wrong."""

    index: int
    count: int  # of those images
    usual: float  # its share among all images


def pr_curve(scores: Floats, targets: NDArray[Any], threshold: float | None = None) -> PRCurve:
    """The curve of one class, from its scores (N,) and targets (N,); the threshold is in the scale of the scores."""
    known = targets >= 0
    order = np.argsort(-scores[known], kind="stable")
    ranked, hits = scores[known][order], np.cumsum(targets[known][order] == 1)
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True)) if len(ranked) else np.array([], dtype=np.int64)
    recall, precision = hits[last] / max(1, hits[-1] if len(hits) else 0), hits[last] / (last + 1)
    chosen = int((ranked >= threshold).sum()) if threshold is not None else 0
    at = np.searchsorted(last, chosen - 1)
    return PRCurve(ranked[last], recall, precision, (float(recall[at]), float(precision[at])) if chosen else None)


def decisions(probabilities: Floats, targets: NDArray[Any], thresholds: Floats) -> Decisions:
    """Precision, recall and F1 of every class at its threshold."""
    predicted = (probabilities >= thresholds) & (targets >= 0)
    positive = targets == 1
    hits, claimed, present = (predicted & positive).sum(0), predicted.sum(0), positive.sum(0)
    undefined = present == 0
    return Decisions(
        positives=present,
        predicted=claimed,
        precision=hits / np.maximum(claimed, 1),
        recall=np.where(undefined, np.nan, hits / np.maximum(present, 1)),
        f1=np.where(undefined, np.nan, 2 * hits / np.maximum(claimed + present, 1)),
    )


def reliability(probabilities: Floats, targets: NDArray[Any], bins: int = 15) -> Reliability:
    """Reliability and expected calibration error, pooled over classes."""
    known = targets >= 0
    values, present = probabilities[known], targets[known] == 1
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=what, minlength=bins) for what in (values, present))
    probability, share = (np.where(count == 0, np.nan, total / np.maximum(count, 1)) for total in sums)
    error = np.nansum(count * np.abs(share - probability)) / max(1, count.sum())
    return Reliability(count, probability, share, float(error))


def co_occurrence(predicted: Bools, targets: NDArray[Any]) -> CoOccurrence:
    """Count, for every pair of classes, how often the second is present and predicted where the first is present."""
    known, present = targets >= 0, (targets == 1).astype(np.float64)  # float: BLAS multiplies integers slowly
    counts = (present.T @ what.astype(np.float64) for what in (known, present, predicted & known))
    return CoOccurrence(*(np.rint(count).astype(np.int64) for count in counts))


def companions(images: Bools, entries: Bools, known: Bools, own: int, most: int = 5) -> list[Companion]:
    """The classes in at least one more of some images than their share of all images predicts, most excess first.

    ``images`` (N,) are those on which class ``own`` is wrong; ``entries`` (N, K), of which only the ``known`` (N, K)
    count, are the classes present or wrongly predicted.
    """
    entries = entries & known
    usual = entries.sum(0) / np.maximum(known.sum(0), 1)
    count = entries[images].sum(0)
    excess = count - usual * known[images].sum(0)
    excess[own] = 0
    best = np.argsort(-excess, kind="stable")[:most]
    return [Companion(int(k), int(count[k]), float(usual[k])) for k in best if excess[k] >= 1]


@dataclass(frozen=True)
class Errors:
    """The worst images of a class, by row, worst first."""

    absent: list[int]  # without the class, scored highest
    present: list[int]  # with the class, scored lowest


def worst_errors(scores: Floats, targets: NDArray[Any], most: int = 4) -> Errors:
    """The images of one class that are ranked worst, at most so many of each kind, from scores and targets (N,)."""
    rising, falling = np.argsort(scores, kind="stable"), np.argsort(-scores, kind="stable")
    absent, present = falling[targets[falling] == 0], rising[targets[rising] == 1]
    return Errors(absent[:most].tolist(), present[:most].tolist())
