"""Adapters of ``timm.loss``: unknown targets are left out, and reductions are means."""

from typing import Any

import torch
from torch import Tensor, nn

from mlcl.losses.base import ClassificationLoss, masked_mean
from mlcl.losses.base import Reduction as Reduction

NEVER = -1e4  # an unknown entry's logit in a ranking: exp(-1e4) is 0, and unlike with -inf gradients stay finite


def from_timm(name: str, **settings: Any) -> nn.Module:
    """One of timm's losses; imported here, so that the other losses of this package need torch alone."""
    from mlcl.backbones.light_timm import timm

    loss: nn.Module = getattr(timm.loss, name)(**settings)
    return loss


class PerEntryLoss(ClassificationLoss):
    """The loss ``name`` of ``timm.loss``, one value per (image, class), averaged over the known ones."""

    def __init__(self, name: str, reduction: Reduction, **settings: Any) -> None:
        super().__init__()
        if reduction not in ("mean", "batchmean"):
            raise ValueError(f"reduction must be mean or batchmean, got {reduction!r}")
        self.entries, self.reduction = from_timm(name, reduction="none", **settings), reduction

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, K) logits and targets in {1, 0, -1}."""
        entries, known = self.entries(logits, (targets == 1).to(logits.dtype)), targets >= 0
        if self.reduction == "batchmean":
            return torch.where(known, entries, 0).sum() / len(logits)
        return masked_mean(entries, known)
