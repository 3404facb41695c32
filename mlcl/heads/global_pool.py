"""The plain baseline: pool the feature map over space, one linear layer."""

from typing import Literal, Self

import torch
from torch import Tensor, nn

from mlcl.heads.base import Head, HeadOutput, full_precision


class GlobalPool(Head):
    """Global average (or max) pooling and a linear classifier: the same embedding for every class, no attention.

    Args:
        pool: ``avg`` or ``max`` over the positions.
        dropout: probability of dropping a pooled feature in training.
    """

    def __init__(self, pool: Literal["avg", "max"] = "avg", dropout: float = 0.0) -> None:
        super().__init__()
        if pool not in ("avg", "max"):
            raise ValueError(f"pool must be avg or max, got {pool!r}")
        self.pool, self.dropout = pool, nn.Dropout(dropout)

    def build(self, in_features: int, num_classes: int) -> Self:
        """See :meth:`Head.build`."""
        self.embedding_dim = in_features
        self.classifier = nn.Linear(in_features, num_classes)
        return self

    def forward(self, features: Tensor) -> HeadOutput:
        """(B, C, h, w) to logits (B, K) and embeddings (B, K, C)."""
        pooled = features.mean((2, 3)) if self.pool == "avg" else features.amax((2, 3))
        embeddings = pooled[:, None].expand(-1, self.classifier.out_features, -1)
        with full_precision(pooled):
            logits = self.classifier(self.dropout(pooled).to(self.classifier.weight.dtype))
        return HeadOutput(logits, embeddings, None)

    def saliency(self, features: Tensor, output: HeadOutput) -> Tensor:
        """Class activation maps, max(<w_k, F(p)>, 0), (B, K, h, w) (Zhou et al., arXiv 1512.04150).

        Where nothing speaks for a class, its map is 1 everywhere.
        """
        with full_precision(features):
            weight = self.classifier.weight
            maps = torch.einsum("kc,bchw->bkhw", weight, features.to(weight.dtype)).relu()
        return torch.where(maps.amax((2, 3), keepdim=True) > 0, maps, 1.0)
