"""Supervised contrast of whole images, once for each label of the anchor (MulSupCon): a baseline."""

from typing import Literal

import torch
from torch import Tensor

from mlcl.losses._image_level import ImageLevelLoss


class MulSupConLoss(ImageLevelLoss):
    """Pulls an image to the others that share a label with it, one label after the other.

    With z_i the unit vector of an image view i, and P(i, j) the other image views that, as i, have label j
    ("Multi-Label Supervised Contrastive Learning", Zhang and Wu, AAAI 2024, ojs.aaai.org article 29619)::

        L = sum_i sum_{j in y_i} -w_ij/|P(i, j)| sum_{p in P(i, j)} log s_ip
        s_ip = exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t)

    w_ij divides by the number of pairs, see ``weights``. With one label per image this is supervised contrastive
    learning (arXiv 2004.11362). Pairs (i, j) whose P(i, j) is empty are left out. Keys are all image views of the
    batch, of all processes, without the paper's momentum encoder and queue.

    An image's vector is the mean of its class-specific embeddings over the known entries (our choice). An image of
    which nothing is known is left out.

    Args:
        temperature: t.
        weights: ``label`` is the mean over all pairs (i, j); ``image`` the mean over the labels of an image, then over
            images. Only pairs and images that have a positive are counted.
        projection: width of a projector's output (the authors': 256); 0 only brings vectors to length 1.
        dim: D, given by the head.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weights: Literal["label", "image"] = "label",
        projection: int = 0,
        dim: int | None = None,
    ) -> None:
        super().__init__(temperature, projection, dim)
        if weights not in ("label", "image"):
            raise ValueError(f"weights must be label or image, got {weights!r}")
        self.weighting = weights

    def weights(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """W_ip = sum_j w_ij / |P(i, j)| over the labels that i and p share: one matrix product."""
        present = (labels == 1).to(dtype)
        others = present.sum(0) - 1  # |P(i, j)|, the same for every i that has j
        pairs = present * (others > 0)
        if self.weighting == "image":
            pairs = pairs / pairs.sum(1, keepdim=True).clamp(min=1)
        share = pairs / pairs.sum().clamp(min=1)  # after the division above the sum counts image views
        return (share / others.clamp(min=1) @ present.T).fill_diagonal_(0)
