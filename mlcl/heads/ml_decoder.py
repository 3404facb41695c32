"""A decoder with few fixed queries, one for each group of classes (ML-Decoder)."""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcl.heads._attention import TransformerLayer, check_at_least, check_multiple
from mlcl.heads.base import Head, HeadOutput, full_precision


class MLDecoder(Head):
    """ML-Decoder (arXiv 2111.12933): G fixed random queries, one cross-attention layer, a linear layer per group.

    With tokens x = ReLU(W F(p)), queries q that are not trained, and n = ceil(K / G) classes per group::

        t = LN(q + dropout(q));  t <- LN(t + MHA(q = t, k = x, v = x));  t <- LN(t + FFN(t))
        logit_k = <w_k, t_g> + b_k,  group g = floor(k / n)

    The classes of a group share its embedding and its attention. Groups without a class (K = 5 fills 3 of G = 4) are
    not made.

    Args:
        dim: D, width of tokens and queries, a multiple of ``heads``.
        groups: G; null is one query per class, at most 100. More than K means K.
        heads: number of attention heads.
        ffn: width inside the feed-forward part.
        dropout: probability in the layer and on the queries, in training.
    """

    queries: Tensor

    def __init__(
        self, dim: int = 768, groups: int | None = None, heads: int = 8, ffn: int = 2048, dropout: float = 0.1
    ) -> None:
        super().__init__()
        check_multiple("dim", dim, "heads", heads)
        check_at_least(1, groups=groups, ffn=ffn)
        self.embedding_dim, self.groups, self.heads, self.ffn = dim, groups, heads, ffn
        self.dropout = nn.Dropout(dropout)

    def build(self, in_features: int, num_classes: int) -> Self:
        """See :meth:`Head.build`."""
        dim = self.embedding_dim
        self.per_group = math.ceil(num_classes / (min(num_classes, 100) if self.groups is None else self.groups))
        used = math.ceil(num_classes / self.per_group)
        self.project = nn.Linear(in_features, dim)
        self.register_buffer("queries", torch.randn(used, dim))
        self.norm = nn.LayerNorm(dim)
        self.layer = TransformerLayer(dim, self.ffn, self.heads, self.dropout.p, with_map=True)
        bound = 1 / math.sqrt(dim)  # as nn.Linear
        self.weight = nn.Parameter(torch.empty(used, dim, self.per_group).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        return self

    def forward(self, features: Tensor) -> HeadOutput:
        """(B, C, h, w) to logits (B, K), embeddings (B, K, D) and attention (B, K, h, w)."""
        tokens = F.relu(self.project(features.flatten(2).transpose(1, 2)))
        queries = self.queries.expand(tokens.shape[0], -1, -1)  # before dropout, which differs between images
        queries = self.norm(queries + self.dropout(queries))
        groups, attention = self.layer(queries, queries, tokens, tokens)
        with full_precision(groups):
            logits = torch.einsum("bgd,gdn->bgn", groups.to(self.weight.dtype), self.weight)
            logits = (
                logits.flatten(1)[:, : len(self.bias)] + self.bias
            )  # the last group may reach beyond the last class
        maps = torch.unflatten(self._per_class(attention), -1, features.shape[-2:])
        return HeadOutput(logits, self._per_class(groups), maps)

    def _per_class(self, groups: Tensor) -> Tensor:
        """(B, G, ...) to (B, K, ...): each class gets its group's."""
        return groups.repeat_interleave(self.per_group, 1)[:, : len(self.bias)]
