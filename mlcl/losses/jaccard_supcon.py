"""Supervised contrast of whole images, positives weighted by how many labels they share: a baseline."""

import torch
from torch import Tensor

from mlcl.losses._image_level import ImageLevelLoss


class JaccardSupConLoss(ImageLevelLoss):
    """Pulls an image to every image that shares labels with it, by their share of common labels.

    With z_i the unit vector of an image view i, and J(i, p) = |y_i and y_p| / |y_i or y_p| over the labels known in
    both, 0 where neither has any::

        L = mean_i - sum_p J(i, p) log s_ip / sum_p J(i, p)
        s_ip = exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t)

    p runs over the other image views with J(i, p) > ``threshold``, i over those that have such a p.

    The Jaccard weight is that of KMCL (arXiv 2307.03967); weight and threshold are in pytorch-metric-learning's
    ``MultiSupConLoss``, too (its default threshold: 0.5). That one divides by the number of positives instead of the
    sum of their weights, takes J = threshold too, and J = 1 for two images without any label.

    An image's vector is the mean of its class-specific embeddings over the known entries (our choice). An image of
    which nothing is known is left out. Keys are all image views of the batch, of all processes.

    Args:
        temperature: t.
        threshold: an image view with this share of common labels, or less, is no positive.
        projection: width of a projector's output; 0 only brings vectors to length 1.
        dim: D, given by the head.
    """

    def __init__(
        self, temperature: float = 0.1, threshold: float = 0.0, projection: int = 0, dim: int | None = None
    ) -> None:
        super().__init__(temperature, projection, dim)
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}")
        self.threshold = threshold

    def weights(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """W_ip = J(i, p) / sum_p J(i, p) / number of anchors."""
        present, known = (labels == 1).to(dtype), (labels >= 0).to(dtype)
        both = present @ present.T
        mine = present @ known.T  # labels of i of which p knows; the transpose: labels of p of which i knows
        jaccard = (both / (mine + mine.T - both).clamp(min=1)).fill_diagonal_(0)
        jaccard = jaccard * (jaccard > self.threshold)
        total = jaccard.sum(1, keepdim=True)
        # J is at least 1/K where it is not 0, so only empty rows meet the bound.
        return jaccard / total.clamp(min=1e-9) / (total > 0).sum().clamp(min=1)
