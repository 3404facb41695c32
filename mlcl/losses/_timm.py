"""What carries a loss of ``timm.loss`` into this package: unknown targets are left out.

Reductions are means, so that the weight of an embedding loss means the same beside each of them.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mlcl.losses.base import ClassificationLoss

# A masked logit: exp(-1e4) is 0 in fp32, and unlike -inf it keeps every gradient finite.
NEVER = -1e4
Reduction = Literal["mean", "batchmean"]


def from_timm(name: str, **settings: Any) -> nn.Module:
    """One of timm's losses; imported here, so that the other losses of this package need torch alone."""
    from mlcl.backbones.light_timm import timm

    loss: nn.Module = getattr(timm.loss, name)(**settings)
    return loss


class PerEntryLoss(ClassificationLoss):
    """A loss with one value per (image, class), averaged over the known ones.

    Args:
        entries: (B, K) logits and targets in {0, 1} to (B, K) values.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(self, entries: nn.Module, reduction: Reduction) -> None:
        super().__init__()
        if reduction not in ("mean", "batchmean"):
            raise ValueError(f"reduction must be mean or batchmean, got {reduction!r}")
        self.entries, self.reduction = entries, reduction

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the known entries, or their sum divided by the number of images (``batchmean``)."""
        known = targets >= 0
        entries: Tensor = self.entries(logits, (targets == 1).to(logits.dtype))
        total = torch.where(known, entries, 0).sum()
        return total / (len(logits) if self.reduction == "batchmean" else known.sum().clamp(min=1))


class RankingLoss(ClassificationLoss):
    """A loss that compares logits with each other: an unknown entry becomes an absent one that no term can feel."""

    def __init__(self, ranking: nn.Module) -> None:
        super().__init__()
        self.ranking = ranking

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """As :class:`ClassificationLoss` says; the mean runs over images (and classes) with something to compare."""
        loss: Tensor = self.ranking(logits.masked_fill(targets < 0, NEVER), (targets == 1).to(logits.dtype))
        return loss
