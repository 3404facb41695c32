"""Present against absent embeddings of the same class, around a learned prototype (SADCL's PSCL)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcl.losses.base import EmbeddingLoss


class PrototypeContrastiveLoss(EmbeddingLoss):
    """Each class's prototype attracts its present embeddings against its absent ones.

    With z a unit embedding, c_k a unit prototype and the sums over images and views (Ma et al., arXiv 2307.09715,
    L_P2S)::

        L = -1/N sum_k log( sum_{i: y_ik = 1} exp(c_k.z_ik / t) / sum_{i: y_ik known} exp(c_k.z_ik / t) )

    N is the number of present entries, as in the official code (the printed equation is a plain sum). It contrasts
    images rather than classes, so it helps a classifier from the first step on.

    Args:
        num_classes: K, given by the dataset.
        dim: D, given by the head.
        temperature: t.
        absent: a class absent from the batch is left out (``skip``, the paper), or its embeddings are pushed away from
            its prototype (``push``, what the official code does).
    """

    def __init__(
        self, num_classes: int, dim: int, temperature: float = 0.07, absent: Literal["skip", "push"] = "skip"
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if absent not in ("skip", "push"):
            raise ValueError(f"absent must be skip or push, got {absent!r}")
        self.temperature, self.absent = temperature, absent
        self.prototypes = nn.Parameter(torch.randn(num_classes, dim))

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        prototypes = F.normalize(self.prototypes.to(embeddings.dtype), dim=-1)
        scores = torch.einsum("bvkd,kd->bvk", F.normalize(embeddings, dim=-1), prototypes) / self.temperature
        scores = scores.flatten(0, 1)  # (B * V, K)
        target = targets.repeat_interleave(embeddings.shape[1], 0)
        present, known = target == 1, target >= 0
        numerator, has_present = _masked_logsumexp(scores, present)
        denominator, has_known = _masked_logsumexp(scores, known)
        counted = has_present if self.absent == "skip" else has_known
        terms = torch.where(counted, denominator - torch.where(has_present, numerator, 0), 0)
        return terms.sum() / present.sum().clamp(min=1)


def _masked_logsumexp(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Column by column over the rows of the mask, and which columns have any; 0, with zero gradient, for the rest."""
    any_row = mask.any(0)
    filled = scores.masked_fill(~mask & any_row, -torch.inf)
    return torch.where(any_row, filled.logsumexp(0), 0), any_row
