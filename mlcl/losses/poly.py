"""Poly-1: binary cross-entropy with one more polynomial term."""

from mlcl.losses._timm import PerEntryLoss, Reduction


class PolyLoss(PerEntryLoss):
    """Poly-1 binary cross-entropy, BCE + epsilon (1 - p_t) (Leng et al., ICLR 2022, arXiv 2204.12511).

    Args:
        epsilon: coefficient of the first polynomial term; 0 is BCE.
        gamma: focal exponent; 0 is none.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(self, epsilon: float = 2.0, gamma: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__("PolyBinaryCrossEntropy", reduction, epsilon=epsilon, gamma=gamma)
