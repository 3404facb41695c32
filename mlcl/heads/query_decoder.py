"""Class-specific features from a transformer decoder with one learned query per class (Query2Label)."""

from typing import Self

import torch
from torch import Tensor, nn

from mlcl.heads._attention import TransformerLayer, check_at_least, check_multiple, sine_code
from mlcl.heads.base import Head, HeadOutput, PerClassLinear


class QueryDecoder(Head):
    """The head of Query2Label (arXiv 2107.10834), which SADCL calls SARL (arXiv 2307.09715), in DETR's style.

    With x the image tokens, s their 2-D sine code, e_k a learned query per class and t = 0 at the start::

        encoder layer:  x <- LN(x + MHA(q = x + s, k = x + s, v = x)),  x <- LN(x + FFN(x))
        decoder layer:  t <- LN(t + MHA(q = t + e, k = x + s, v = x)),  t <- LN(t + FFN(t))
        f_k = LN(t_k),  logit_k = <w_k, f_k> + b_k

    The attention is that of the last decoder layer. The published size on ResNet-101 is ``dim: 2048, ffn: 8192`` (151
    million parameters for 80 classes); the lean default is ours.

    Args:
        dim: D, width of tokens and queries, a multiple of ``heads`` and of 4; null takes the backbone's width. Tokens
            of this width are not projected.
        ffn: width inside the feed-forward parts; null is 4 times ``dim``.
        heads: number of attention heads.
        encoder_layers: layers over the image tokens; 0 is SADCL's ablation SARL*.
        decoder_layers: layers from image tokens to classes.
        dropout: probability in every layer, in training.
    """

    def __init__(
        self,
        dim: int | None = 512,
        ffn: int | None = None,
        heads: int = 4,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_at_least(0, encoder_layers=encoder_layers)
        check_at_least(1, decoder_layers=decoder_layers, ffn=ffn)
        self.dim, self.ffn, self.heads, self.dropout = dim, ffn, heads, dropout
        self.encoder_layers, self.decoder_layers = encoder_layers, decoder_layers

    def build(self, in_features: int, num_classes: int) -> Self:
        """See :meth:`Head.build`; a ValueError if ``dim`` is no multiple of ``heads`` and 4."""
        dim = self.embedding_dim = in_features if self.dim is None else self.dim
        check_multiple("dim", dim, "heads", self.heads)
        check_multiple("dim", dim, "the sine code's step", 4)
        settings = dim, 4 * dim if self.ffn is None else self.ffn, self.heads, self.dropout
        self.project = nn.Identity() if dim == in_features else nn.Linear(in_features, dim)
        self.encoder = nn.ModuleList(TransformerLayer(*settings) for _ in range(self.encoder_layers))
        last = self.decoder_layers - 1
        self.decoder = nn.ModuleList(TransformerLayer(*settings, with_map=i == last) for i in range(last + 1))
        self.queries = nn.Parameter(torch.randn(num_classes, dim))
        self.norm = nn.LayerNorm(dim)
        self.classifier = PerClassLinear(num_classes, dim)
        return self

    def forward(self, features: Tensor) -> HeadOutput:
        """(B, C, h, w) to logits (B, K), embeddings (B, K, D) and attention (B, K, h, w)."""
        size = features.shape[-2:]
        tokens = self.project(features.flatten(2).transpose(1, 2))
        position = sine_code(size[0], size[1], self.embedding_dim, like=tokens)
        for layer in self.encoder:
            placed = tokens + position
            tokens, _ = layer(tokens, placed, placed, tokens)
        placed, state = tokens + position, torch.zeros_like(self.queries)[None]
        for layer in self.decoder:
            state, attention = layer(state, state + self.queries, placed, tokens)
        embeddings = self.norm(state)
        return HeadOutput(self.classifier(embeddings), embeddings, attention.unflatten(-1, size))
