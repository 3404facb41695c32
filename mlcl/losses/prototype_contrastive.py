"""Present against absent embeddings of the same class, around a prototype (SADCL's PSCL)."""

from typing import Literal

import torch
from torch import Tensor, nn

from mlcl.losses.base import EmbeddingLoss, check_temperature
from mlcl.losses.projector import Projector


class PrototypeContrastiveLoss(EmbeddingLoss):
    """Each class's prototype attracts its present embeddings against its absent ones.

    With z a unit embedding, c_k a unit prototype and the sums over images and views (Ma et al., arXiv 2307.09715,
    L_P2S)::

        L = -1/N sum_k log( sum_{i: y_ik = 1} exp(c_k.z_ik / t) / sum_{i: y_ik known} exp(c_k.z_ik / t) )

    N is the number of present entries, as in the official code (the printed equation is a plain sum). A run that
    starts from a trained network (``--model.init_from``) takes that network's class means for prototypes.

    Args:
        num_classes: K, given by the dataset.
        dim: D, given by the head.
        temperature: t.
        absent: a class absent from the batch is left out (``skip``, the paper), or its embeddings are pushed away from
            its prototype (``push``, what the official code does).
        prototypes: ``learnable`` parameters, as in the paper, or the running ``mean`` of each class's present
            embeddings (ours); a class that was never present is left out.
        momentum: share of the old running mean that an update keeps.
        projection: P, width of a projector shared by samples and prototypes (SADCL: 1024); 0 is none.
    """

    starts_from_means = True
    prototypes: Tensor  # (K, D), a parameter or a buffer
    known: Tensor  # (K,) bool, false where a running mean has not begun

    def __init__(
        self,
        num_classes: int,
        dim: int,
        temperature: float = 0.07,
        absent: Literal["skip", "push"] = "skip",
        prototypes: Literal["learnable", "mean"] = "learnable",
        momentum: float = 0.9,
        projection: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
        if absent not in ("skip", "push"):
            raise ValueError(f"absent must be skip or push, got {absent!r}")
        if prototypes not in ("learnable", "mean"):
            raise ValueError(f"prototypes must be learnable or mean, got {prototypes!r}")
        self.temperature, self.absent, self.momentum = check_temperature(temperature), absent, momentum
        self.projector = Projector(dim, projection)
        self.learnable = prototypes == "learnable"
        if self.learnable:
            self.prototypes = nn.Parameter(torch.randn(num_classes, dim))
        else:
            self.register_buffer("prototypes", torch.zeros(num_classes, dim))
        self.register_buffer("known", torch.full((num_classes,), self.learnable))

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        return self.contrast(self.projector(embeddings), targets, self.projector)

    def contrast(self, unit: Tensor, targets: Tensor, projector: nn.Module) -> Tensor:
        """The loss, from unit embeddings (B, V, K, P) and the projector of the prototypes."""
        prototypes = projector(self.prototypes.to(unit.dtype))
        scores = torch.einsum("bvkd,kd->bvk", unit, prototypes).flatten(0, 1) / self.temperature  # (B * V, K)
        target = targets.repeat_interleave(unit.shape[1], 0)
        present, entered = target == 1, target >= 0
        numerator, has_present = _masked_logsumexp(scores, present)
        denominator, has_any = _masked_logsumexp(scores, entered)
        counted = (has_present if self.absent == "skip" else has_any) & self.known
        terms = torch.where(counted, denominator - torch.where(has_present, numerator, 0), 0)
        return terms.sum() / present.sum().clamp(min=1)

    @torch.no_grad()
    def update(self, embeddings: Tensor, targets: Tensor, probabilities: Tensor) -> None:
        """Move the running means towards those of the batch."""
        if self.learnable:
            return
        # A step that overflows in half precision is skipped, but a mean would keep its infinity for good.
        counted = (targets == 1)[:, None] & embeddings.isfinite().all(-1)  # (B, V, K)
        rows = torch.where(counted[..., None], embeddings, 0).to(self.prototypes.dtype)
        count = counted.sum((0, 1))
        means = rows.sum((0, 1)) / count.clamp(min=1)[:, None]
        share = torch.where(self.known, 1 - self.momentum, 1.0)[:, None]
        self.start_from(self.prototypes + share * (means - self.prototypes), count > 0)

    @torch.no_grad()
    def start_from(self, means: Tensor, known: Tensor) -> None:
        """Take class means (K, D) for prototypes where ``known`` (K,) bool."""
        moved = torch.where(known[:, None], means.to(self.prototypes), self.prototypes)
        if self.learnable:
            self.prototypes.copy_(moved)
        else:  # not in place, because this step's backward pass still needs the old ones
            self.prototypes = moved
        self.known = self.known | known


def _masked_logsumexp(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logsumexp of each column over the rows of the mask, 0 where it is empty, and which columns are not empty."""
    any_row = mask.any(0)
    filled = scores.masked_fill(~mask & any_row, -torch.inf)
    return torch.where(any_row, filled.logsumexp(0), 0), any_row
