"""What decisions are worth: the CP CR CF1 OP OR OF1 family, from counts over a block of images at a time."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mlcl.average_precision import as_numpy, block_length

CF1Definition = Literal["harmonic", "mean"]
IMAGE_BLOCK = 2**18  # entries at a time: a block stays in the cache, and memory does not depend on N and K


def image_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows of all tensors (N, K) at a time, one block at least; what makes copies makes small ones."""
    step = block_length(tensors[0].shape[1], IMAGE_BLOCK)
    for start in range(0, max(1, len(tensors[0])), step):
        yield tuple(tensor[start : start + step] for tensor in tensors)


def f1_family(predicted: Tensor, targets: Tensor, cf1: CF1Definition = "harmonic") -> dict[str, Tensor]:
    """Per-class (C) and overall (O) precision, recall and F1 of binary decisions.

    CP and CR are means over the classes with at least one positive; a class that is never predicted has precision 0.

    Args:
        predicted: (N, K) bool.
        targets: (N, K) integer in {1, 0, -1}; -1 is left out.
        cf1: ``harmonic`` is 2 CP CR / (CP + CR) (ML-GCN, CSRA, MulCon); ``mean`` the mean of the classes' F1 (SADCL).

    Returns:
        ``CP, CR, CF1, OP, OR, OF1``, float64 scalars.
    """
    return family_of(sum(count(*block) for block in image_blocks(predicted, targets)), cf1)  # type: ignore[arg-type]


def count(predicted: Tensor, targets: Tensor) -> Tensor:
    """(3, K): how many entries of each class are found, claimed and present."""
    positive, claimed = targets == 1, predicted & (targets >= 0)
    return torch.stack([per_class(claimed & positive), per_class(claimed), per_class(positive)])


def per_class(entries: Tensor) -> Tensor:
    """(K,) int64, how many are true in a block (B, K); summed in int32, several times faster than torch's int64."""
    return entries.sum(0, dtype=torch.int32).long()


def family_of(counts: Tensor, cf1: CF1Definition) -> dict[str, Tensor]:
    """What :func:`f1_family` returns, from the sum of all blocks' counts (3, K)."""
    hits, claimed, present = counts
    counted = present > 0
    precision, recall = _ratio(hits, claimed)[counted].mean(), _ratio(hits, present)[counted].mean()
    overall_precision, overall_recall = _ratio(hits.sum(), claimed.sum()), _ratio(hits.sum(), present.sum())
    mean_f1 = _ratio(2 * hits, claimed + present)[counted].mean()
    return {
        "CP": precision,
        "CR": recall,
        "CF1": _ratio(2 * precision * recall, precision + recall) if cf1 == "harmonic" else mean_f1,
        "OP": overall_precision,
        "OR": overall_recall,
        "OF1": _ratio(2 * overall_precision * overall_recall, overall_precision + overall_recall),
    }


def top_k(scores: Tensor, targets: Tensor, k: int) -> Tensor:
    """The k highest known entries of each image, (N, K) bool; of equal scores the lower class index comes first."""
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    for some_chosen, *some in image_blocks(chosen, scores, targets):
        values, known = (as_numpy(tensor) for tensor in some)
        known = known >= 0
        values, out, rows = np.where(known, values, -np.inf), some_chosen.numpy(), np.arange(len(known))
        for _ in range(min(k, known.shape[1])):
            best = values.argmax(1)  # the first of equals: numpy promises it, torch.topk does not
            out[rows, best], values[rows, best] = True, -np.inf
        out &= known
    return chosen.to(scores.device)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Numerator / denominator in float64, 0 where the denominator is 0."""
    numerator, denominator = numerator.double(), denominator.double()
    return torch.where(denominator == 0, 0.0, numerator / denominator.where(denominator != 0, 1.0))
