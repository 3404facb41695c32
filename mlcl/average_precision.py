"""Average precision (AP) of every class, exact, a block of classes at a time."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Interpolation = Literal["none", "envelope", "11point"]
AP_NAMES = {"none": "not interpolated", "envelope": "precision envelope (VOC2010+)", "11point": "11-point (VOC2007)"}

CLASS_BLOCK = 2**23  # entries at a time; large, because a row in memory is an image: few classes waste its cache lines
_TILE = 256  # images transposed at once: four times faster than a whole block


def average_precision(scores: Tensor, targets: Tensor, interpolation: Interpolation = "none") -> Tensor:
    """Average precision of every class.

    Entries with equal scores are retrieved together (as scikit-learn does), so the order of the images never matters.

    Args:
        scores: (N, K) float, higher means more likely present; logits are fine and, in half precision, safer.
        targets: (N, K) integer in {1, 0, -1}; -1 is left out.
        interpolation: ``none`` averages the precision at each positive (ML-GCN, ASL, MulCon); ``envelope`` the
            highest precision at this or a higher recall (VOC2010+, Q2L, SADCL); ``11point`` the same at the recalls
            0, 0.1, ..., 1 (VOC2007).

    Returns:
        (K,) float64; NaN for a class without positives.

    Raises:
        ValueError: if the shapes differ, a score is NaN, or the interpolation is unknown.

    >>> average_precision(torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[1], [0], [1]]))
    tensor([0.8333], dtype=torch.float64)
    """
    scores, targets = torch.as_tensor(scores).detach().cpu(), torch.as_tensor(targets).cpu()
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores and targets must both be (N, K), got {(*scores.shape,)} and {(*targets.shape,)}")
    if interpolation not in AP_NAMES:
        raise ValueError(f"interpolation must be one of {', '.join(AP_NAMES)}, got {interpolation!r}")
    step, class_ap = block_length(len(scores), CLASS_BLOCK), []
    for start in range(0, scores.shape[1], step):
        by_class, labels = (_transposed(whole[:, start : start + step]) for whole in (scores, targets))
        if np.isnan(by_class).any():
            raise ValueError("scores hold NaN: the network's output is not a number (a diverged training?)")
        class_ap += [_class_ap(*pair, interpolation) for pair in zip(by_class, labels, strict=True)]
    return torch.tensor(class_ap, dtype=torch.float64)


def _class_ap(scores: NDArray[Any], targets: NDArray[Any], interpolation: str) -> float:
    """AP of one class; numpy, because its sort is several times faster than torch's on a CPU."""
    hits = np.sort(scores[targets == 1])
    if not len(hits):
        return float("nan")
    # What scores less than every positive enters no count below. (Positions are faster than a mask.)
    rivals = np.sort(scores[np.flatnonzero((targets >= 0) & (scores >= hits[0]))])
    # At each positive, from the lowest score up: how many positives, and how many entries, score at least as much.
    found = len(hits) - np.searchsorted(hits, hits)
    precision = found / (len(rivals) - np.searchsorted(rivals, hits))
    if interpolation != "none":
        precision = np.maximum.accumulate(precision)
    if interpolation == "11point":  # in integers: 3 of 10 found is a recall of 0.3, whatever floats say
        levels = found * 10 >= np.arange(11)[:, None] * len(hits)
        return float(np.where(levels, precision, 0).max(1).mean())
    return float(precision.mean())


def _transposed(part: Tensor) -> NDArray[Any]:
    """Some columns (N, C), strided, as a contiguous (C, N)."""
    out = np.empty(part.shape[::-1], dtype=as_numpy(part[:0]).dtype)
    for start in range(0, len(part), _TILE):
        out[:, start : start + _TILE] = as_numpy(part[start : start + _TILE]).T
    return out


def as_numpy(tensor: Tensor) -> NDArray[Any]:
    """On the CPU, half precision widened: numpy has no bfloat16."""
    return (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).detach().cpu().numpy()


def block_length(width: int, entries: int) -> int:
    """How many rows (or columns) of this width make a block of so many entries; one at least."""
    return max(1, entries // max(1, width))
