"""Classification losses: those of ``timm.loss``, made to leave unknown targets out.

Reductions are means, so that the weight of an embedding loss means the same beside each of them. Expected value at
the start of training (logits near 0): 0.69 for ``BinaryCrossEntropy``.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mlcl.losses.base import ClassificationLoss

# A masked logit: exp(-1e4) is 0 in fp32, and unlike -inf it keeps every gradient finite.
_NEVER = -1e4
Reduction = Literal["mean", "batchmean"]


def _timm(name: str, **settings: Any) -> nn.Module:
    import timm.loss  # here, so that the other losses of this package need torch alone

    loss: nn.Module = getattr(timm.loss, name)(**settings)
    return loss


class _PerEntryLoss(ClassificationLoss):
    """A loss with one value per (image, class), averaged over the known ones."""

    def __init__(self, entries: nn.Module, reduction: Reduction) -> None:
        super().__init__()
        if reduction not in ("mean", "batchmean"):
            raise ValueError(f"reduction must be mean or batchmean, got {reduction!r}")
        self.entries, self.reduction = entries, reduction

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the known entries, or their sum divided by the number of images (``batchmean``)."""
        known = targets >= 0
        entries: Tensor = self.entries(logits, (targets == 1).to(logits.dtype))
        total = torch.where(known, entries, 0).sum()
        return total / (len(logits) if self.reduction == "batchmean" else known.sum().clamp(min=1))


class BinaryCrossEntropy(_PerEntryLoss):
    """Binary cross-entropy, -[y log p + (1 - y) log(1 - p)], one decision per class.

    Args:
        smoothing: moves each target this share of the way towards 0.5.
        pos_weight: factor on the term of present labels.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(self, smoothing: float = 0.0, pos_weight: float | None = None, reduction: Reduction = "mean") -> None:
        settings = {"smoothing": smoothing, "pos_weight": pos_weight, "smooth_dense": True, "reduction": "none"}
        super().__init__(_timm("BinaryCrossEntropy", **settings), reduction)


class AsymmetricLoss(_PerEntryLoss):
    """Asymmetric loss, ASL (Ridnik et al., ICCV 2021, arXiv 2009.14119, eq. 7).

    L+ = -(1-p)^g+ log p and L- = -p_m^g- log(1-p_m), with p_m = max(p - m, 0).

    Args:
        gamma_neg: focusing exponent g- of absent labels.
        gamma_pos: focusing exponent g+ of present labels.
        clip: probability margin m; 0 turns it off.
        detach_focus: keep the focusing weights out of the gradient.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        detach_focus: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        settings = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip, "reduction": "none"}
        settings["disable_torch_grad_focal_loss"] = detach_focus
        super().__init__(_timm("AsymmetricLossMultiLabel", **settings), reduction)


class PolyLoss(_PerEntryLoss):
    """Poly-1 binary cross-entropy, BCE + epsilon (1 - p_t) (Leng et al., ICLR 2022, arXiv 2204.12511).

    Args:
        epsilon: coefficient of the first polynomial term; 0 is BCE.
        gamma: focal exponent; 0 is none.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(self, epsilon: float = 2.0, gamma: float = 0.0, reduction: Reduction = "mean") -> None:
        settings = {"epsilon": epsilon, "gamma": gamma, "reduction": "none"}
        super().__init__(_timm("PolyBinaryCrossEntropy", **settings), reduction)


class DistributionBalancedLoss(_PerEntryLoss):
    """Distribution-balanced loss for long-tailed labels (Wu et al., ECCV 2020, arXiv 2007.09654).

    Args:
        class_counts: number of training images with each class, K numbers.
        num_samples: number of training images.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(self, class_counts: list[float], num_samples: int, reduction: Reduction = "mean") -> None:
        settings = {"class_counts": class_counts, "num_samples": num_samples, "reduction": "none"}
        super().__init__(_timm("DistributionBalancedLoss", **settings), reduction)


class _RankingLoss(ClassificationLoss):
    """A loss that compares logits with each other: an unknown entry becomes an absent one that no term can feel."""

    def __init__(self, ranking: nn.Module) -> None:
        super().__init__()
        self.ranking = ranking

    def compute(self, logits: Tensor, targets: Tensor) -> Tensor:
        """As :class:`ClassificationLoss` says; the mean runs over images (and classes) with something to compare."""
        loss: Tensor = self.ranking(logits.masked_fill(targets < 0, _NEVER), (targets == 1).to(logits.dtype))
        return loss


class TwoWayLoss(_RankingLoss):
    """Two-way loss: hardest positives against hardest negatives, over classes and over images (Kobayashi, CVPR 2023).

    Args:
        positive_temperature: of the soft minimum over present labels.
        negative_temperature: of the soft maximum over absent ones.
    """

    def __init__(self, positive_temperature: float = 4.0, negative_temperature: float = 1.0) -> None:
        super().__init__(_timm("TwoWayLoss", tp=positive_temperature, tn=negative_temperature))


class ZLPRLoss(_RankingLoss):
    """ZLPR: log(1 + sum over absent e^s) + log(1 + sum over present e^-s), per image (arXiv 2208.02955)."""

    def __init__(self) -> None:
        super().__init__(_timm("ZlprLoss"))
