"""Both losses of SADCL: samples against samples with a memory bank, and samples against prototypes."""

from typing import Literal

import torch
from torch import Tensor, nn

from mlcl.losses.label_contrastive import LabelContrastiveLoss
from mlcl.losses.prototype_contrastive import PrototypeContrastiveLoss


class DualContrastiveLoss(LabelContrastiveLoss):
    """SADCL's sum of :class:`LabelContrastiveLoss` with a bank and :class:`PrototypeContrastiveLoss`.

    One projector g serves samples, bank and prototypes (Ma et al., arXiv 2307.09715)::

        L = label_weight * L_S2S(g(h), g(bank)) + prototype_weight * L_P2S(g(h), g(prototypes))

    The weights of the official code, 100 and 50, stand beside 1000 times the mean binary cross-entropy: 0.1 and 0.05
    beside the mean. Its bank holds as many entries per class as there are images in a process's batch (ours:
    :class:`~mlcl.losses.bank.EmbeddingBank`), and each GPU contrasts only its own images.

    Args:
        num_classes: K, given by the dataset.
        dim: D, given by the head.
        label_weight: of the label contrastive part.
        prototype_weight: of the prototype part.
        temperature: t of the label contrastive part.
        prototype_temperature: t of the prototype part.
        projection: P, width of the projector; 0 is none.
        bank: M, entries of the memory bank per class; 0 is none.
        confidence: probability above which a present label's embedding enters the bank.
        absent: what becomes of a class absent from the batch, in the prototype part: ``skip`` or ``push``.
        prototypes: ``learnable`` or ``mean``.
        momentum: of the running means.
        compat: keep anchors without a positive in the divisor of the label contrastive part.
    """

    starts_from_means = True

    def __init__(
        self,
        num_classes: int,
        dim: int,
        label_weight: float = 0.1,
        prototype_weight: float = 0.05,
        temperature: float = 0.2,
        prototype_temperature: float = 0.07,
        projection: int = 1024,
        bank: int = 8,
        confidence: float = 0.8,
        absent: Literal["skip", "push"] = "skip",
        prototypes: Literal["learnable", "mean"] = "learnable",
        momentum: float = 0.9,
        compat: bool = False,
    ) -> None:
        super().__init__(temperature, 0, compat, projection, bank, confidence, num_classes, dim)
        self.label_weight, self.prototype_weight = label_weight, prototype_weight
        self.carries_content = True  # through this part alone
        self.around = PrototypeContrastiveLoss(num_classes, dim, prototype_temperature, absent, prototypes, momentum)

    @property
    def prototypes(self) -> Tensor:
        """(K, D), a parameter or a buffer."""
        return self.around.prototypes

    def compute(self, embeddings: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Both weighted parts, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        unit = self.projector(embeddings)
        return {
            "label_contrastive": self.label_weight * self.contrast(unit, targets, nn.Identity()),
            "prototype_contrastive": self.prototype_weight * self.around.contrast(unit, targets, self.projector),
        }

    @torch.no_grad()
    def update(self, embeddings: Tensor, targets: Tensor, probabilities: Tensor) -> None:
        """Put confident true positives into the bank, renew running means."""
        super().update(embeddings, targets, probabilities)
        self.around.update(embeddings, targets, probabilities)

    @torch.no_grad()
    def start_from(self, means: Tensor, known: Tensor) -> None:
        """Take class means (K, D) for prototypes, and for first entries of the bank, where ``known`` (K,) bool."""
        self.bank.start_from(means, known)
        self.around.start_from(means, known)
