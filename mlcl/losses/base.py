"""The base classes: fp32 inside, unknown targets left out, shapes checked. A subclass writes ``compute`` only."""

import re
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

Reduction = Literal["mean", "batchmean"]


class ClassificationLoss(nn.Module, ABC):
    """A loss on logits, called ``loss(logits, targets)``."""

    # How the values of the known entries become one: their mean, or their sum over classes as a mean over images. None
    # is a loss without a value for each entry. What unknown labels count as (mlcl.losses.unknown) depends on it.
    reduction: Reduction | None = None

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
            return self.compute(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)

    @abstractmethod
    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, K) logits in at least fp32 and (B, K) targets in {1, 0, -1}."""


class EmbeddingLoss(nn.Module, ABC):
    """A loss on class-specific embeddings, called ``loss(embeddings, targets)``.

    A subclass writes :meth:`compute`. One with a state (a memory bank, class means) also writes :meth:`update`.
    """

    # Whether one embedding per class, the same for every image, misses the least value: else the loss is met without
    # looking at the picture (docs/methods.md has the values).
    carries_content = True
    starts_from_means = False  # whether start_from wants the class means of the training set
    compares_rows = False  # whether compute selects the present rows, and so can use a capacity
    capacity: int | None = None  # number of rows to select in every training step; None counts them each time

    @property
    def selected_rows(self) -> int | None:
        """The capacity for ``present_rows``; outside of training every batch has its own number."""
        return self.capacity if self.training else None

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
        return torch.stack(list(self.terms(embeddings, targets).values())).sum()

    def terms(self, embeddings: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The weighted parts of the loss by name, which add up to it; arguments and errors as of a call."""
        views = embeddings.unsqueeze(1) if embeddings.ndim == 3 else embeddings
        if views.ndim != 4 or (views.shape[0], views.shape[2]) != tuple(targets.shape):
            shapes = f"{(*embeddings.shape,)} and {(*targets.shape,)}"
            raise ValueError(f"embeddings must be (B, K, D) or (B, V, K, D) and targets (B, K): {shapes}")
        with torch.autocast(embeddings.device.type, enabled=False):
            result = self.compute(views.to(torch.promote_types(views.dtype, torch.float32)), targets)
        named = result if isinstance(result, dict) else {_snake(type(self).__name__): result}
        # Every part depends on all parameters, if only with gradient 0, because DDP waits for each of them.
        nothing = sum((parameter.reshape(-1)[:0].sum() for parameter in self.parameters()), embeddings.new_zeros(()))
        if not all(term.requires_grad for term in named.values()):  # not always: its gradient is as large as they are
            nothing = nothing + embeddings.reshape(-1)[:0].sum()
        return {name: term + nothing.to(term) for name, term in named.items()}

    @abstractmethod
    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor | dict[str, Tensor]:
        """The loss, or its weighted parts by name, from (B, V, K, D) in at least fp32 and (B, K) in {1, 0, -1}."""

    @torch.no_grad()
    def update(self, embeddings: Tensor, targets: Tensor, probabilities: Tensor) -> None:
        """Update the state after a training step, with the tensors of all processes; by default there is none.

        Args:
            embeddings: (B, V, K, D), detached.
            targets: (B, K) integer in {1, 0, -1}.
            probabilities: (B, V, K) of the classifier.
        """

    @torch.no_grad()
    def start_from(self, means: Tensor, known: Tensor) -> None:
        """Start from class means (K, D) of a trained model where ``known`` (K,) bool; by default does nothing."""


def check_temperature(temperature: float) -> float:
    """The temperature itself; a ValueError unless it is a positive number."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive, got {temperature}")
    return temperature


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries of the mask; 0 where there is none."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def _snake(name: str) -> str:
    """LabelContrastiveLoss to label_contrastive."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("Loss") or name).lower()
