"""Metrics as plain loops, written from their definitions: what our code and other libraries are compared with.

``scores`` are rows of K numbers, ``targets`` rows of 1 present, 0 absent, -1 unknown; unknown entries are left out.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

Rows = Sequence[Sequence[float]]
Pairs = list[tuple[float, int]]  # scores and targets


def column(scores: Rows, targets: Rows, k: int) -> Pairs:
    """The known entries of a class."""
    return [(s[k], int(t[k])) for s, t in zip(scores, targets, strict=True) if t[k] >= 0]


def pooled(scores: Rows, targets: Rows) -> Pairs:
    """The known entries of all classes."""
    return [(a, int(b)) for s, t in zip(scores, targets, strict=True) for a, b in zip(s, t, strict=True) if b >= 0]


def average_precision(pairs: Pairs) -> float:
    """Mean over the positives of the precision among the entries that score at least as much."""
    hits = [s for s, t in pairs if t]
    at = [sum(h >= one for h in hits) / sum(s >= one for s, _ in pairs) for one in hits]
    return mean(at)


def one_by_one(pairs: Pairs) -> float:
    """The same where equal scores are retrieved one by one, in the order of the list."""
    ranked = sorted(pairs, key=lambda pair: -pair[0])
    found, at = 0, []
    for place, (_, target) in enumerate(ranked, 1):
        found += target
        at += [found / place] * target
    return mean(at)


def points_101(hits: list[int], positives: int) -> float:
    """COCO's AP of ranked detections: the highest precision from a recall of 0, 0.01, ..., 1 on, or 0.

    In floating point, in which some recalls that are reached exactly lie below theirs.
    """
    found = [sum(hits[: i + 1]) for i in range(len(hits))]
    precision = [f / (i + 1) for i, f in enumerate(found)]
    best = [max(precision[i:]) for i in range(len(hits))]
    curve = [(f / positives, b) for f, b in zip(found, best, strict=True)]
    return mean([next((b for reached, b in curve if reached >= r), 0.0) for r in np.linspace(0, 1, 101)])


def coco_ap(pairs: Pairs) -> float:
    """COCO's AP of a class whose images are ranked by score, equal ones in the order of the list."""
    hits = [t for _, t in sorted(pairs, key=lambda pair: -pair[0])]
    return points_101(hits, sum(hits)) if any(hits) else math.nan


def coco_any_class(scores: Rows, targets: Rows) -> float:
    """COCO's AP without categories: the j-th highest score of an image is right if it has j labels, whichever."""
    ranked = []
    for s, t in zip(scores, targets, strict=True):
        ranked += [(one, int(j < sum(t))) for j, one in enumerate(sorted(s, reverse=True))]
    return coco_ap(ranked)


def eleven_points(pairs: Pairs) -> float:
    """VOC2007's AP: the mean over the recalls 0, 0.1, ..., 1 of the highest precision from there on."""
    hits = [s for s, t in pairs if t]
    curve = [(sum(h >= s for h in hits), sum(o >= s for o, _ in pairs)) for s, _ in pairs]
    at = [max([f / n for f, n in curve if 10 * f >= r * len(hits)], default=0.0) for r in range(11)]
    return mean(at) if hits else math.nan


def auroc(pairs: Pairs) -> float:
    """The share of pairs of a positive and a negative that are in order; a tie is half a pair."""
    above = [(p > n) + (p == n) / 2 for p, t in pairs if t for n, u in pairs if not u]
    return mean(above)


def f1(pairs: Pairs, predicted: Callable[[float], bool]) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where the denominator is."""
    hits, claimed = sum(predicted(s) for s, t in pairs if t), sum(predicted(s) for s, _ in pairs)
    present = sum(t for _, t in pairs)
    return ratio(hits, claimed), ratio(hits, present), ratio(2 * hits, claimed + present)


def matthews(pairs: Pairs) -> float:
    """Matthews' correlation of the decisions at 0.5 and the targets; 0 where it is not defined."""
    counts = {(p, t): sum((s > 0.5, bool(u)) == (p, t) for s, u in pairs) for p in (0, 1) for t in (0, 1)}
    tp, fp, fn, tn = counts[1, 1], counts[1, 0], counts[0, 1], counts[0, 0]
    return ratio(tp * tn - fp * fn, math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def ece(pairs: Pairs, place: Callable[[float], int]) -> float:
    """Expected calibration error: over bins, |sum of probabilities - number present|, by the number of entries."""
    bins: dict[int, list[float]] = {}
    for probability, target in pairs:
        bins.setdefault(place(probability), []).append(probability - target)
    return sum(abs(sum(gaps)) for gaps in bins.values()) / len(pairs)


def cross_entropy(pairs: Pairs) -> float:
    """Mean of -log sigmoid(z) over the present, of -log sigmoid(-z) over the absent, of logits z."""
    losses = [softplus(-z if t else z) for z, t in pairs]
    return sum(losses) / len(losses)


def softplus(x: float) -> float:
    """log(1 + exp(x)), which does not overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def temperature(loss: Callable[[float], float]) -> float:
    """The T in [0.01, 100] at the minimum of a loss of 1 / T that first falls and then rises: a search by thirds."""
    low, high = 0.01, 100.0
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(1 / left) < loss(1 / right) else (left, high)
    return (low + high) / 2


def by_image(one: Callable[[list[float], list[float]], float], scores: Rows, targets: Rows) -> list[float]:
    """A number per image, from the scores of its present labels and those of its absent ones."""
    parts = []
    for s, t in zip(scores, targets, strict=True):
        parts.append(one(*([a for a, b in zip(s, t, strict=True) if b == kind] for kind in (1, 0))))
    return parts


def coverage(present: list[float], absent: list[float]) -> float:
    """How many labels score at least as much as the lowest present one."""
    return sum(s >= min(present) for s in present + absent) if present else 0


def ranking_loss(present: list[float], absent: list[float]) -> float:
    """The share of pairs of a present and an absent label out of order; a tie is out of order."""
    wrong = [p <= a for p in present for a in absent]
    return mean(wrong) if wrong else 0.0


def ranking_precision(present: list[float], absent: list[float]) -> float:
    """Mean over the present labels of the share of present ones among those that score as much; 1 without either."""
    if not present or not absent:
        return 1.0
    return average_precision([(s, 1) for s in present] + [(s, 0) for s in absent])


def mean(values: Sequence[float]) -> float:
    """NaN of none."""
    return sum(values) / len(values) if values else math.nan


def ratio(numerator: float, denominator: float) -> float:
    """0 where the denominator is 0."""
    return numerator / denominator if denominator else 0.0
