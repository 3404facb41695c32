"""Average precision under resampled images, exactly, for many resamples at once; and resampled seeds.

An image drawn w times counts w times, so a resample is a vector of integer weights and nothing is sorted again: per
class the images are sorted once, and between two of its positives only sums of weights matter.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from scipy.stats import norm as normal
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import embedding_bag

from mlcl.analysis.measures import Interpolation

_ENTRIES = 2_500_000  # of a chunk of weights: 10 MB, which stays near the processor


def image_weights(images: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each image is drawn, with replacement, in each resample; a seed gives all runs the same images.

    Yields:
        (N, b) float32 chunks; every column sums to N.
    """
    generator, chunk = np.random.default_rng(seed), max(1, _ENTRIES // images)
    for start in range(0, resamples, chunk):
        weights = np.empty((images, min(chunk, resamples - start)), dtype=np.float32)
        for column in weights.T:
            column[:] = np.bincount(generator.integers(images, size=images), minlength=images)
        yield torch.from_numpy(weights)


def resampled_ap(scores: Tensor, targets: Tensor, interpolation: Interpolation, weights: Iterable[Tensor]) -> Tensor:
    """Average precision of every class in every resample: ``average_precision`` of the repeated rows.

    Args:
        scores: (N, K) float.
        targets: (N, K) integer in {1, 0, -1}; -1 is left out.
        interpolation: see :func:`mlcl.analysis.measures.average_precision`.
        weights: (N, b) float32 chunks of whole numbers, from :func:`image_weights`.

    Returns:
        (B, K) float64; NaN where no positive of the class was drawn.
    """
    ranked = [_Ranked(s, t) for s, t in zip(scores.T, targets.T, strict=True)]
    return torch.cat([torch.stack([one.ap(chunk, interpolation) for one in ranked], 1) for chunk in weights])


class _Ranked:
    """One class's known images, sorted into levels: level l holds those from its l-th highest positive score up."""

    def __init__(self, scores: Tensor, targets: Tensor) -> None:
        self.levels = torch.unique(-scores[targets == 1])  # distinct: equal scores are retrieved together
        self.known, self.positives = (self._by_level(scores, kept) for kept in (targets >= 0, targets == 1))

    def _by_level(self, scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The kept images sorted by level, and where each level begins; those below the last positive are dropped."""
        images = kept.nonzero()[:, 0]
        level, order = torch.searchsorted(self.levels, scores[images].neg()).sort(stable=True)
        begins = torch.searchsorted(level, torch.arange(len(self.levels) + 1))
        return images[order][: begins[-1]], begins[:-1]

    def ap(self, weights: Tensor, interpolation: Interpolation) -> Tensor:
        """(b,) float64 for weights (N, b) float32, in which whole numbers to 2^24 are exact."""
        if not len(self.levels):
            return torch.full((weights.shape[1],), torch.nan, dtype=torch.float64)
        parts = self.positives, self.known  # an embedding bag adds the weights of a level without copying the rows
        hits, known = (embedding_bag(images, weights, begins, mode="sum") for images, begins in parts)
        found = hits.cumsum(0)
        total = found[-1]
        precision = found.double() / known.cumsum(0).clamp(min=1)
        if interpolation != "none":
            precision = precision.flip(0).cummax(0).values.flip(0)
        if interpolation == "11point":  # in integers, as in metrics.py
            tenths = [torch.where(found * 10 >= tenth * total, precision, 0).amax(0) for tenth in range(11)]
            return torch.where(total > 0, torch.stack(tenths).mean(0), torch.nan)
        return (hits * precision).sum(0) / total  # 0 / 0 is NaN


def resampled_mean(runs: Tensor, generator: np.random.Generator, widening: float = 1.0) -> Tensor:
    """The mean (B, ...) over runs (n, B, ...), in each resample over n - 1 of the n runs drawn with replacement.

    Drawing n - 1 makes the variance over runs unbiased (Rao and Wu 1988); drawing n would make it (n - 1) / n too
    small. Methods are drawn independently even where they share seeds: a seed fixes initial weights and order, but
    another loss soon leads elsewhere. ``widening`` multiplies the distance of a draw from the mean of all runs.
    """
    if len(runs) == 1:
        return runs[0]
    drawn = torch.from_numpy(generator.integers(len(runs), size=(len(runs) - 1, runs.shape[1])))
    mean = runs.mean(0)
    return mean + widening * (runs[drawn, torch.arange(runs.shape[1])].mean(0) - mean)


def widening(runs: Sequence[int], level: float) -> float:
    """How much wider than a normal interval of this level Student's is, given the number of runs of each method.

    Without this factor, equal methods of two runs each would be called different far more often than the level says.
    """
    freedom, tail = sum(runs) - len(runs), (1 + level) / 2
    return float(student.ppf(tail, freedom) / normal.ppf(tail)) if freedom else 1.0
