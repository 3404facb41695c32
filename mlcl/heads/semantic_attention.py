"""Class-specific features from class maps: each class pools the feature map with its own weights."""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcl.heads._attention import check_at_least
from mlcl.heads.base import Head, HeadOutput, PerClassLinear, full_precision


class SemanticAttention(Head):
    """Class maps by a 1x1 convolution, normalised over space, that weight the positions for each class.

    A_k = (1 - average) norm(Conv1x1(F))_k + average / P over P positions;  f_k = sum_p A_k(p) W_v F(p);
    logit_k = <w_k, f_k> + b_k. The form is inferred from Hassanin et al. (arXiv 2107.11159), whose layers are not
    public; ``average`` and class maps that start at zero are ours.

    Args:
        dim: D, width of the class-specific features.
        normalise: ``softmax`` over the positions, or ``sigmoid`` divided by its sum.
        dropout: probability of dropping a feature before the classifier in training.
        average: share of average pooling in the weights, in [0, 1).
    """

    def __init__(
        self,
        dim: int = 512,
        normalise: Literal["softmax", "sigmoid"] = "softmax",
        dropout: float = 0.0,
        average: float = 0.5,
    ) -> None:
        super().__init__()
        check_at_least(1, dim=dim)
        if normalise not in ("softmax", "sigmoid"):
            raise ValueError(f"normalise must be softmax or sigmoid, got {normalise!r}")
        if not 0 <= average < 1:
            raise ValueError(f"average must lie in [0, 1), got {average}")
        self.embedding_dim, self.normalise, self.average, self.dropout = dim, normalise, average, nn.Dropout(dropout)

    def build(self, in_features: int, num_classes: int) -> Self:
        """See :meth:`Head.build`."""
        self.class_maps = nn.Conv2d(in_features, num_classes, kernel_size=1)
        for parameter in self.class_maps.parameters():
            nn.init.zeros_(parameter)  # every class starts with the average over the positions
        self.value = nn.Linear(in_features, self.embedding_dim)
        self.classifier = PerClassLinear(num_classes, self.embedding_dim)
        return self

    def forward(self, features: Tensor) -> HeadOutput:
        """(B, C, h, w) to logits (B, K), embeddings (B, K, D) and attention (B, K, h, w)."""
        pooled, attention = self._pooled(features)
        embeddings = self.value(pooled)
        logits = self.classifier(self.dropout(embeddings))
        return HeadOutput(logits, embeddings, torch.unflatten(attention, -1, features.shape[-2:]))

    def classify(self, features: Tensor) -> Tensor:
        """As <W_v^T w_k, pooled_k> + <w_k, b_v> + b_k: of each image only K vectors are read, none is projected."""
        if self.training and self.dropout.p:
            return self(features).logits  # type: ignore[no-any-return]
        pooled, _ = self._pooled(features)
        with full_precision(pooled):
            weight = self.classifier.weight @ self.value.weight
            bias = self.classifier(self.value.bias.expand(1, len(weight), -1))
            logits: Tensor = torch.einsum("bkc,kc->bk", pooled.to(weight.dtype), weight) + bias
            return logits

    def _pooled(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The features that each class sees, (B, K, C), and how much of each position, (B, K, P)."""
        scores = self.class_maps(features).flatten(2)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # half would round small weights to 0
        # sigmoid / sum of sigmoids is the softmax of log-sigmoids, which cannot divide 0 by 0
        attention = (scores if self.normalise == "softmax" else F.logsigmoid(scores)).softmax(-1)
        attention = (1 - self.average) * attention + self.average / attention.shape[-1]
        # The weights sum to 1, so pooling first and projecting the K results equals projecting every position.
        return torch.einsum("bkp,bcp->bkc", attention.to(features.dtype), features.flatten(2)), attention
