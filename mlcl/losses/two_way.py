"""Ranking over classes and over images."""

import torch.nn.functional as F
from torch import Tensor

from mlcl.losses._timm import NEVER
from mlcl.losses.base import ClassificationLoss, check_temperature, masked_mean


class TwoWayLoss(ClassificationLoss):
    """Two-way loss: hardest positives against hardest negatives, over classes and over images (Kobayashi, CVPR 2023).

    The sum over both directions of the mean of softplus(t- log sum_absent e^(s/t-) + t+ log sum_present e^(-s/t+)),
    over the classes, or the images, that have a present label.

    Args:
        positive_temperature: t+, of the soft minimum over present labels.
        negative_temperature: t-, of the soft maximum over absent ones.
    """

    def __init__(self, positive_temperature: float = 4.0, negative_temperature: float = 1.0) -> None:
        super().__init__()
        self.positive, self.negative = check_temperature(positive_temperature), check_temperature(negative_temperature)

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, K) logits and targets in {1, 0, -1}."""
        # timm's selects rows by a mask, for which the host waits in every step on CUDA.
        logits, present, total = logits.masked_fill(targets < 0, NEVER), targets == 1, logits.new_zeros(())
        low = (-logits / self.positive).masked_fill(~present, NEVER)
        high = (logits / self.negative).masked_fill(present, NEVER)
        for dim in (0, 1):
            counted = present.any(dim)
            margin = high.logsumexp(dim) * self.negative + low.logsumexp(dim) * self.positive
            total = total + masked_mean(F.softplus(margin), counted)
        return total
