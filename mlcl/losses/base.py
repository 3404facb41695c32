"""What every loss promises: fp32 inside, unknown targets left out, the caller's shapes checked.

A subclass writes :meth:`compute` only, and is usable with torch alone.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


def _at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class ClassificationLoss(nn.Module, ABC):
    """A loss on logits, called ``loss(logits, targets)``."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            logits: (B, K) float of any precision.
            targets: (B, K) integer in {1 present, 0 absent, -1 unknown}.

        Returns:
            Scalar in fp32 (fp64 for fp64 logits); 0, still attached to the graph, where nothing is known.

        Raises:
            ValueError: if the shapes differ.
        """
        if logits.ndim != 2 or logits.shape != targets.shape:
            raise ValueError(f"logits and targets must both be (B, K): {(*logits.shape,)} and {(*targets.shape,)}")
        with torch.autocast(logits.device.type, enabled=False):
            return self.compute(_at_least_fp32(logits), targets)

    @abstractmethod
    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, K) logits in at least fp32 and (B, K) targets in {1, 0, -1}."""


class EmbeddingLoss(nn.Module, ABC):
    """A loss on class-specific embeddings, called ``loss(embeddings, targets)``."""

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss.

        Args:
            embeddings: (B, K, D), or (B, V, K, D) with V views of each image; any precision, any length.
            targets: (B, K) integer in {1 present, 0 absent, -1 unknown}.

        Returns:
            Scalar in fp32 (fp64 for fp64 embeddings); 0, still attached to the graph, where nothing can be compared.

        Raises:
            ValueError: if the shapes do not fit.
        """
        views = embeddings.unsqueeze(1) if embeddings.ndim == 3 else embeddings
        if views.ndim != 4 or (views.shape[0], views.shape[2]) != tuple(targets.shape):
            raise ValueError(
                f"embeddings must be (B, K, D) or (B, V, K, D) and targets (B, K): "
                f"{(*embeddings.shape,)} and {(*targets.shape,)}"
            )
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(_at_least_fp32(views), targets)

    @abstractmethod
    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, V, K, D) embeddings in at least fp32 and (B, K) targets in {1, 0, -1}."""
