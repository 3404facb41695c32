"""Class-specific features from attention blocks of the Set Transformer (MulCon)."""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcl.heads._attention import attend, check_at_least, check_multiple
from mlcl.heads.base import Head, HeadOutput, PerClassLinear


class LabelAttention(Head):
    """The attention stack of MulCon (arXiv 2107.11626, sizes from its code), without position code or dropout.

    One block on queries Q and tokens X, with linear q, k, v::

        A = softmax(q k^T / sqrt(width)) per head;  O = LN(q + A v);  MAB(Q, X) = LN(O + ReLU(W O + b))

    Image tokens pass X <- MAB(X, X) at the backbone's width; learned label queries U give F = MAB(U, X); the labels
    pass F <- MAB(F, F); logit_k = <w_k, f_k> + b_k. The attention is that of MAB(U, X). Linear layers start at
    N(0, 0.02), biases at 0, U Xavier-uniform as a (K, dim) matrix.

    Args:
        dim: D, width of the label queries and embeddings, a multiple of ``heads``.
        heads: number of attention heads; the backbone's width must be a multiple of it.
        token_blocks: blocks among the image tokens, of the backbone's width; they hold most of the parameters.
        label_blocks: blocks among the label embeddings.
        scale: ``width`` in the softmax: the ``full`` one as in MulCon's code, or that of one ``head``.
    """

    def __init__(
        self,
        dim: int = 1024,
        heads: int = 4,
        token_blocks: int = 2,
        label_blocks: int = 1,
        scale: Literal["full", "head"] = "full",
    ) -> None:
        super().__init__()
        if scale not in ("full", "head"):
            raise ValueError(f"scale must be full or head, got {scale!r}")
        check_multiple("dim", dim, "heads", heads)
        check_at_least(0, token_blocks=token_blocks, label_blocks=label_blocks)
        self.embedding_dim, self.heads, self.scale = dim, heads, scale
        self.token_blocks, self.label_blocks = token_blocks, label_blocks

    def build(self, in_features: int, num_classes: int) -> Self:
        """See :meth:`Head.build`; a ValueError if the backbone's width cannot be divided among the heads."""
        dim, wide, settings = self.embedding_dim, in_features, (self.heads, self.scale == "full")
        if self.token_blocks:
            check_multiple("the backbone's width", wide, "heads", self.heads)
        self.among_tokens = nn.ModuleList(_Block(wide, wide, *settings) for _ in range(self.token_blocks))
        self.to_labels = _Block(wide, dim, *settings, with_map=True)
        self.among_labels = nn.ModuleList(_Block(dim, dim, *settings) for _ in range(self.label_blocks))
        self.queries = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_classes, dim)))
        self.classifier = PerClassLinear(num_classes, dim)
        for weight in (m.weight for m in self.modules() if isinstance(m, nn.Linear | PerClassLinear)):
            nn.init.normal_(weight, std=0.02)
        return self

    def forward(self, features: Tensor) -> HeadOutput:
        """(B, C, h, w) to logits (B, K), embeddings (B, K, D) and attention (B, K, h, w)."""
        tokens = features.flatten(2).transpose(1, 2)
        for block in self.among_tokens:
            tokens, _ = block(tokens, tokens)
        labels, attention = self.to_labels(self.queries[None], tokens)
        for block in self.among_labels:
            labels, _ = block(labels, labels)
        return HeadOutput(self.classifier(labels), labels, attention.unflatten(-1, features.shape[-2:]))


class _Block(nn.Module):
    """MAB of queries (width ``dim``) on tokens (width ``token_dim``), see :class:`LabelAttention`."""

    def __init__(self, token_dim: int, dim: int, heads: int, full_scale: bool, with_map: bool = False) -> None:
        super().__init__()
        self.heads, self.with_map = heads, with_map
        self.scale = 1 / math.sqrt(dim if full_scale else dim // heads)
        self.query, self.linear = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key, self.value = nn.Linear(token_dim, dim), nn.Linear(token_dim, dim)
        self.norm_attention, self.norm_linear = nn.LayerNorm(dim), nn.LayerNorm(dim)
        for linear in (self.query, self.key, self.value, self.linear):
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.query(queries), self.key(tokens), self.value(tokens)
        mixed, attention = attend(query, key, value, self.heads, scale=self.scale, with_map=self.with_map)
        x = self.norm_attention(query + mixed)
        return self.norm_linear(x + F.relu(self.linear(x))), attention
