"""Class-specific features from a transformer decoder with one query per class (Query2Label)."""

from typing import Self

import torch
from torch import Tensor, nn

from mlcl.errors import MlclError
from mlcl.heads._attention import TransformerLayer, check_at_least, check_multiple, sine_code
from mlcl.heads._vectors import read_vectors
from mlcl.heads.base import Head, HeadOutput, PerClassLinear, full_precision

_NAME = "model.network.head.queries"


class QueryDecoder(Head):
    """The head of Query2Label (arXiv 2107.10834), which SADCL calls SARL (arXiv 2307.09715), in DETR's style.

    With x the image tokens, s their 2-D sine code, e_k a learned query per class and t = 0 at the start::

        encoder layer:  x <- LN(x + MHA(q = x + s, k = x + s, v = x)),  x <- LN(x + FFN(x))
        decoder layer:  t <- LN(t + MHA(q = t + e, k = x + s, v = x)),  t <- LN(t + FFN(t))
        f_k = LN(t_k),  logit_k = <w_k, f_k> + b_k

    With ``queries``, e_k = W v_k + b of a fixed vector v_k per class (ours), so that classes with similar vectors begin
    with similar queries. W is drawn so that the components of e_k begin with the variance 1 of a learned query.

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
        queries: a .npy file (K, d) of numbers, row k for the dataset's class k: its word vector, or what a text encoder
            makes of its name; scaled to length sqrt(d). A checkpoint holds the vectors, so that only a training reads
            the file; a number d makes room for those of a checkpoint. null learns the queries.

    Raises:
        MlclError: if the file is not there or holds anything else, or another number of rows than there are classes.
    """

    query_vectors: Tensor | None

    def __init__(
        self,
        dim: int | None = 512,
        ffn: int | None = None,
        heads: int = 4,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        dropout: float = 0.1,
        queries: int | str | None = None,
    ) -> None:
        super().__init__()
        check_at_least(0, encoder_layers=encoder_layers)
        check_at_least(1, decoder_layers=decoder_layers, ffn=ffn)
        self.dim, self.ffn, self.heads, self.dropout = dim, ffn, heads, dropout
        self.encoder_layers, self.decoder_layers = encoder_layers, decoder_layers
        self.source, self.read = queries, read_vectors(queries, _NAME) if isinstance(queries, str) else None
        if isinstance(queries, int):
            check_at_least(1, queries=queries)

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
        self._make_queries(num_classes, dim)
        self.norm = nn.LayerNorm(dim)
        self.classifier = PerClassLinear(num_classes, dim)
        return self

    def _make_queries(self, num_classes: int, dim: int) -> None:
        vectors = None if self.read is None else self.read.clone()
        self.register_buffer("query_vectors", vectors)  # None is no part of the state
        if isinstance(self.source, int):  # not a number until the checkpoint's take their place
            self.query_vectors = torch.full((num_classes, self.source), torch.nan)
        if self.query_vectors is None:
            self.queries = nn.Parameter(torch.randn(num_classes, dim))
            return
        rows, width = self.query_vectors.shape
        if rows != num_classes:
            raise MlclError(
                f"{_NAME} {self.source}: {rows} rows for {num_classes} classes; it needs one for each, in their order"
            )
        self.query_projection = nn.Linear(width, dim)
        nn.init.normal_(self.query_projection.weight, std=width**-0.5)
        nn.init.zeros_(self.query_projection.bias)

    def _queries_now(self) -> Tensor:
        if self.query_vectors is None:
            return self.queries
        with full_precision(self.query_vectors):  # as learned ones are
            return self.query_projection(self.query_vectors)  # type: ignore[no-any-return]

    def forward(self, features: Tensor) -> HeadOutput:
        """(B, C, h, w) to logits (B, K), embeddings (B, K, D) and attention (B, K, h, w)."""
        size = features.shape[-2:]
        tokens = self.project(features.flatten(2).transpose(1, 2))
        position = sine_code(size[0], size[1], self.embedding_dim, like=tokens)
        for layer in self.encoder:
            placed = tokens + position
            tokens, _ = layer(tokens, placed, placed, tokens)
        queries = self._queries_now()
        placed, state = tokens + position, torch.zeros_like(queries)[None]
        for layer in self.decoder:
            state, attention = layer(state, state + queries, placed, tokens)
        embeddings = self.norm(state)
        return HeadOutput(self.classifier(embeddings), embeddings, attention.unflatten(-1, size))
