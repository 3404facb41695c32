"""Binary cross-entropy, the plain baseline."""

from mlcl.losses._timm import PerEntryLoss, Reduction


class BinaryCrossEntropy(PerEntryLoss):
    """Binary cross-entropy, -[y log p + (1 - y) log(1 - p)], one decision per class.

    Args:
        smoothing: moves each target this share of the way towards 0.5.
        pos_weight: factor on the term of present labels.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(self, smoothing: float = 0.0, pos_weight: float | None = None, reduction: Reduction = "mean") -> None:
        settings = {"smoothing": smoothing, "pos_weight": pos_weight, "smooth_dense": True}
        super().__init__("BinaryCrossEntropy", reduction, **settings)
