"""Class-specific residual attention: each class adds the features of the places where its own score is high."""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcl.heads.base import Head, HeadOutput, full_precision

_TEMPERATURES = {1: (1,), 2: (1, 99), 4: (1, 2, 4, 99), 6: (1, 2, 3, 4, 5, 99), 8: (1, 2, 3, 4, 5, 6, 7, 99)}


class CSRA(Head):
    """Class-specific residual attention (arXiv 2108.02456): average pooling plus attention by the class's own scores.

    For head h with temperature T_h and classifier w_hk of unit length, without bias::

        s_hk(p) = <w_hk, x(p)>;  a_hk = softmax over p of T_h s_hk(p);  T = 99 means the maximum, a_hk one-hot
        logit_k = sum_h [ mean_p s_hk(p) + lam sum_p a_hk(p) s_hk(p) ]

    Equally logit_k = sum_h <w_hk, f_hk> with f_hk = mean_p x(p) + lam sum_p a_hk(p) x(p). The embeddings are the f_hk
    of all heads side by side, so D = ``heads`` * C; the attention is the mean of a_hk over heads.

    Args:
        heads: 1, 2, 4, 6 or 8, with temperatures {1}, {1, 99}, {1, 2, 4, 99}, {1..5, 99} and {1..7, 99}.
        lam: weight of the attention; published are 0.1 for VOC, 0.4 and 0.5 for COCO.
    """

    def __init__(self, heads: int = 1, lam: float = 0.1) -> None:
        super().__init__()
        if heads not in _TEMPERATURES:
            raise ValueError(f"heads must be one of {', '.join(map(str, _TEMPERATURES))}, got {heads}")
        self.heads, self.lam = heads, lam

    def build(self, in_features: int, num_classes: int) -> Self:
        """See :meth:`Head.build`."""
        self.embedding_dim, bound = self.heads * in_features, 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(self.heads, num_classes, in_features).uniform_(-bound, bound))
        return self

    def forward(self, features: Tensor) -> HeadOutput:
        """(B, C, h, w) to logits (B, K), embeddings (B, K, heads * C) and attention (B, K, h, w)."""
        x = features.flatten(2)
        logits, attention = self._scored(x)
        seen = torch.einsum("bhkp,bcp->bkhc", attention.to(x.dtype), x)
        embeddings = (x.mean(-1)[:, None, None] + self.lam * seen).flatten(2)
        return HeadOutput(logits, embeddings, torch.unflatten(attention.mean(1), -1, features.shape[-2:]))

    def classify(self, features: Tensor) -> Tensor:
        """See :meth:`Head.classify`."""
        return self._scored(features.flatten(2))[0]

    def _scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and attention (B, heads, K, P) of features (B, C, P)."""
        with full_precision(x):
            unit = F.normalize(self.weight, dim=-1)
            scores = torch.einsum("hkc,bcp->bhkp", unit, x.to(unit.dtype))
            pairs = zip(scores.unbind(1), _TEMPERATURES[self.heads], strict=True)
            attention = torch.stack([_weights(score, temperature) for score, temperature in pairs], 1)
            return (scores.mean(-1) + self.lam * (attention * scores).sum(-1)).sum(1), attention


def _weights(scores: Tensor, temperature: int) -> Tensor:
    """Weights over the positions of (B, K, P) scores; among equal maxima one position takes all."""
    if temperature == 99:
        return torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
    return (temperature * scores).softmax(-1)
