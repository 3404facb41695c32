"""Average precision (AP) and the precision/recall/F1 family of multi-label papers, exact, in float64.

Targets are 1 present, 0 absent, -1 unknown; an unknown entry enters no number. All values lie in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Interpolation = Literal["none", "envelope", "11point"]
CF1Definition = Literal["harmonic", "mean"]
AP_NAMES = {"none": "not interpolated", "envelope": "precision envelope (VOC2010+)", "11point": "11-point (VOC2007)"}
# What MultiLabelMetrics computes; higher is better for all of them.
NAMES = ("mAP", *(f"{name}{form}" for form in ("", "_top3") for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")))
BLOCK = 2**20  # entries of (N, K) whose copies are made at a time: with thousands of classes a whole one is gigabytes


def average_precision(scores: Tensor, targets: Tensor, interpolation: Interpolation = "none") -> Tensor:
    """Average precision of every class, (K,) float64; NaN for a class without positives.

    Equal scores are retrieved together, as in scikit-learn.

    Args:
        scores: (N, K) float, higher means more likely present.
        targets: (N, K) integer in {1, 0, -1}.
        interpolation: ``none`` averages the precision at each positive (ML-GCN, ASL, MulCon); ``envelope`` the
            highest precision at this or a higher recall (VOC2010+, Q2L, SADCL); ``11point`` the same at the recalls
            0, 0.1, ..., 1 (VOC2007).

    Raises:
        ValueError: if the shapes differ, a score is NaN, a target is another number, or the interpolation is unknown.

    >>> average_precision(torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[1], [0], [1]]))
    tensor([0.8333], dtype=torch.float64)
    """
    scores, targets = torch.as_tensor(scores).detach().cpu(), torch.as_tensor(targets).cpu()
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores and targets must both be (N, K), got {(*scores.shape,)} and {(*targets.shape,)}")
    if interpolation not in AP_NAMES:
        raise ValueError(f"interpolation must be one of {', '.join(AP_NAMES)}, got {interpolation!r}")
    if scores.isnan().any():
        raise ValueError("scores hold NaN: the network's output is not a number (a diverged training?)")
    scores = scores.float() if scores.dtype == torch.bfloat16 else scores  # numpy has no bfloat16
    blocks, class_ap = max(1, scores.numel() // BLOCK), []
    for block in zip(scores.chunk(blocks, dim=1), targets.chunk(blocks, dim=1), strict=True):
        by_class, labels = (part.contiguous().T.contiguous().numpy() for part in block)  # (classes, N)
        if not ((labels == 0) | (labels == 1) | (labels == -1)).all():
            raise ValueError("targets must be multi-hot: 1 present, 0 absent, -1 unknown, not numbers of classes")
        class_ap += [_class_ap(*pair, interpolation) for pair in zip(by_class, labels, strict=True)]
    return torch.tensor(class_ap, dtype=torch.float64)


def _class_ap(scores: NDArray[Any], targets: NDArray[Any], interpolation: Interpolation) -> float:
    """AP of one class; in numpy, whose sort is several times faster on a CPU than torch's."""
    hits = np.sort(scores[targets == 1])
    if not len(hits):
        return float("nan")
    retrieved = np.sort(scores[(targets >= 0) & (scores >= hits[0])])
    # At each positive, from the lowest score up: how many positives, and how many entries, score at least as much.
    found = len(hits) - np.searchsorted(hits, hits)
    precision = found / (len(retrieved) - np.searchsorted(retrieved, hits))
    if interpolation != "none":
        precision = np.maximum.accumulate(precision)
    if interpolation == "11point":  # in integers: 3 of 10 found is a recall of exactly 0.3
        reached = found * 10 >= np.arange(11)[:, None] * len(hits)
        return float(np.where(reached, precision, 0).max(1).mean())
    return float(precision.mean())


def f1_family(predicted: Tensor, targets: Tensor, cf1: CF1Definition = "harmonic") -> dict[str, Tensor]:
    """Per-class (C) and overall (O) precision, recall and F1 of decisions: ``CP, CR, CF1, OP, OR, OF1``.

    CP and CR are means over the classes with at least one positive; a class that is never predicted has precision 0.

    Args:
        predicted: (N, K) bool.
        targets: (N, K) integer in {1, 0, -1}.
        cf1: ``harmonic`` is 2 CP CR / (CP + CR) (ML-GCN, CSRA, MulCon); ``mean`` the mean of the classes' F1 (SADCL).
    """
    present, predicted = targets == 1, predicted & (targets >= 0)
    hits, claimed, positives = (count(entries) for entries in (predicted & present, predicted, present))
    counted = positives > 0
    cp, cr = _ratio(hits, claimed)[counted].mean(), _ratio(hits, positives)[counted].mean()
    op, or_ = _ratio(hits.sum(), claimed.sum()), _ratio(hits.sum(), positives.sum())
    mean_f1 = _ratio(2 * hits, claimed + positives)[counted].mean()
    values = {"CP": cp, "CR": cr, "CF1": _ratio(2 * cp * cr, cp + cr) if cf1 == "harmonic" else mean_f1}
    return {**values, "OP": op, "OR": or_, "OF1": _ratio(2 * op * or_, op + or_)}


def count(entries: Tensor) -> Tensor:
    """(K,) how many of (N, K) are true; torch's sum would make a copy in int64."""
    return torch.from_numpy(np.count_nonzero(entries.cpu().numpy(), axis=0))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Numerator / denominator in float64, 0 where the denominator is 0."""
    return torch.where(denominator == 0, 0.0, numerator.double() / denominator.double())


def top_k(scores: Tensor, targets: Tensor, k: int) -> Tensor:
    """The k highest known entries of each image, (N, K) bool; of equal scores the lower class index comes first."""
    blocks = max(1, scores.numel() // BLOCK)
    chosen = torch.zeros_like(targets, dtype=torch.bool)
    for some, known, left in zip(chosen.chunk(blocks), (targets >= 0).chunk(blocks), scores.chunk(blocks), strict=True):
        left = left.masked_fill(~known, -torch.inf)
        for _ in range(min(k, scores.shape[1])):
            best = left.argmax(1, keepdim=True)  # the first of equal ones, which torch.topk does not promise
            some.scatter_(1, best, True)
            left.scatter_(1, best, -torch.inf)
        some &= known
    return chosen


def decide(logits: Tensor, thresholds: Tensor, temperature: float = 1.0) -> Tensor:
    """Where sigmoid(logits / temperature), in float64, reaches its class's threshold (K,): (N, K) bool."""
    blocks = logits.chunk(max(1, logits.numel() // BLOCK))
    return torch.cat([(block.double() / temperature).sigmoid() >= thresholds for block in blocks])


@dataclass(frozen=True)
class Evaluation:
    """One evaluated split: what was scored (sorted by ``index``, without duplicates) and the results."""

    logits: Tensor  # (N, K) float
    targets: Tensor  # (N, K) int8
    index: Tensor  # (N,) int64, position in the dataset; -1 where none was given
    class_ap: Tensor  # (K,) float64; NaN without positives or without known absences
    values: dict[str, Tensor]
    definitions: dict[str, Any]
    thresholds: Tensor  # (K,) float64, on sigmoid(logits / temperature)
    temperature: float

    def without(self, index: Sequence[int]) -> "Evaluation":
        """Without those of these images (positions) whose targets are all unknown; no metric changes."""
        kept = ~torch.isin(self.index, torch.tensor(index, dtype=torch.int64)) | (self.targets >= 0).any(1)
        return replace(self, logits=self.logits[kept], targets=self.targets[kept], index=self.index[kept])

    @property
    def positives(self) -> Tensor:
        """(K,) number of images in which each class is present."""
        return count(self.targets == 1)

    @property
    def absences(self) -> Tensor:
        """(K,) number of images in which each class is known to be absent."""
        return count(self.targets == 0)

    @property
    def unknown(self) -> Tensor:
        """(K,) number of images in which each class is unknown."""
        return count(self.targets < 0)
