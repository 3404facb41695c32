"""Ranking around a threshold at zero."""

from torch import Tensor

from mlcl.losses._timm import NEVER, from_timm
from mlcl.losses.base import ClassificationLoss


class ZLPRLoss(ClassificationLoss):
    """ZLPR: log(1 + sum over absent e^s) + log(1 + sum over present e^-s), per image (arXiv 2208.02955)."""

    def __init__(self) -> None:
        super().__init__()
        self.ranking = from_timm("ZlprLoss")

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over images, from (B, K) logits and targets in {1, 0, -1}."""
        loss: Tensor = self.ranking(logits.masked_fill(targets < 0, NEVER), (targets == 1).to(logits.dtype))
        return loss
