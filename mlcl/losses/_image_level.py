"""What the losses on whole images share: one vector per image view, and a softmax over all other image views."""

from abc import abstractmethod

import torch
from torch import Tensor

from mlcl.losses.base import EmbeddingLoss, check_temperature
from mlcl.losses.projector import Projector


class ImageLevelLoss(EmbeddingLoss):
    """A weighted sum over pairs of image views.

    With z_i the unit vector of an image view, and W the pair weights of the subclass's :meth:`weights`::

        L = - sum_ip W_ip log( exp(z_i.z_p / t) / sum_{a != i} exp(z_i.z_a / t) )
    """

    def __init__(self, temperature: float, projection: int, dim: int | None) -> None:
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.projector = Projector(dim, projection)

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        vectors, labels = image_views(embeddings, targets)
        weights = self.weights(labels, vectors.dtype)
        anchor = weights.sum(1, keepdim=True) > 0  # with a positive, hence with a denominator too
        z: Tensor = self.projector(vectors)
        left_out = torch.eye(len(z), dtype=torch.bool, device=z.device) | ~(labels >= 0).any(1)
        # A row of nothing but -inf would give NaN, so only in anchors' rows; so would an entry's -inf times weight 0.
        similarity = (z @ z.T / self.temperature).masked_fill(left_out & anchor, -torch.inf)
        return -(weights * similarity.log_softmax(1).masked_fill(left_out, 0)).sum()

    @abstractmethod
    def weights(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Pair weights (R, R), not negative and 0 on the diagonal, from the labels (R, K) of R image views."""


def image_views(embeddings: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Means over the known entries, (B * V, D), 0 if there are none, and labels, (B * V, K), of the image views."""
    known = (targets >= 0).to(embeddings.dtype)
    share = known / known.sum(1, keepdim=True).clamp(min=1)
    vectors = torch.einsum("bvkd,bk->bvd", embeddings, share)
    return vectors.flatten(0, 1), targets.repeat_interleave(embeddings.shape[1], 0)
