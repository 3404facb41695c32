"""Ranking over classes and over images."""

import torch.nn.functional as F
from torch import Tensor, nn

from mlcl.losses._timm import NEVER, RankingLoss
from mlcl.losses.base import check_temperature, masked_mean


class TwoWayLoss(RankingLoss):
    """Two-way loss: hardest positives against hardest negatives, over classes and over images (Kobayashi, CVPR 2023).

    The sum over both directions of the mean of softplus(t- log sum_absent e^(s/t-) + t+ log sum_present e^(-s/t+)),
    over the classes, or the images, that have a present label.

    Args:
        positive_temperature: of the soft minimum over present labels.
        negative_temperature: of the soft maximum over absent ones.
    """

    def __init__(self, positive_temperature: float = 4.0, negative_temperature: float = 1.0) -> None:
        super().__init__(_TwoWay(positive_temperature, negative_temperature))


class _TwoWay(nn.Module):
    """As timm's, but without selecting rows by a mask, for which the host would wait in every step on CUDA."""

    def __init__(self, positive: float, negative: float) -> None:
        super().__init__()
        self.positive, self.negative = check_temperature(positive), check_temperature(negative)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        present, total = targets > 0.5, logits.new_zeros(())
        low = (-logits / self.positive).masked_fill(~present, NEVER)
        high = (logits / self.negative).masked_fill(present, NEVER)
        for dim in (0, 1):
            counted = present.any(dim)
            margin = high.logsumexp(dim) * self.negative + low.logsumexp(dim) * self.positive
            total = total + masked_mean(F.softplus(margin), counted)
        return total
