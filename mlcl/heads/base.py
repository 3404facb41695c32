"""The base class of the heads, and the classifier they share."""

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn


class HeadOutput(NamedTuple):
    """The output of a head for a batch of B images and K classes."""

    logits: Tensor  # (B, K)
    embeddings: Tensor  # (B, K, D), the class-specific features
    attention: Tensor | None  # (B, K, h, w), sums to 1 over h and w


class Head(nn.Module, ABC):
    """Feature map in, :class:`HeadOutput` out; made from its own settings, its sizes are given to :meth:`build`."""

    embedding_dim: int  # D, set by build

    @abstractmethod
    def build(self, in_features: int, num_classes: int) -> Self:
        """Make the layers for a feature map of ``in_features`` channels and ``num_classes`` classes; returns self."""

    @abstractmethod
    def forward(self, features: Tensor) -> HeadOutput:
        """From a feature map (B, C, h, w) to logits, embeddings and attention."""

    def classify(self, features: Tensor) -> Tensor:
        """The logits (B, K) alone, for a training without an embedding loss; a head may save work there."""
        return self(features).logits  # type: ignore[no-any-return]

    def saliency(self, features: Tensor, output: HeadOutput) -> Tensor | None:
        """Where each class is seen, (B, K, h, w), not negative: the attention; None for a head that cannot say."""
        return output.attention


class PerClassLinear(nn.Module):
    """One linear classifier per class on that class's own embedding: logit_k = <w_k, f_k> + b_k, as one einsum."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dim)  # as nn.Linear, and as the SADCL code
        self.weight = nn.Parameter(torch.empty(num_classes, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, K, D) to logits (B, K), in full precision."""
        with full_precision(embeddings):
            return torch.einsum("bkd,kd->bk", embeddings.to(self.weight.dtype), self.weight) + self.bias


def full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Leave autocast: logits in half precision tie, which costs hundredths to tenths of a point of mAP."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
