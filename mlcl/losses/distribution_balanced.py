"""A loss for long-tailed label frequencies."""

from mlcl.losses._timm import PerEntryLoss, Reduction


class DistributionBalancedLoss(PerEntryLoss):
    """Distribution-balanced loss for long-tailed labels (Wu et al., ECCV 2020, arXiv 2007.09654).

    Args:
        class_counts: number of training images with each class, K numbers.
        num_samples: number of training images.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.
    """

    def __init__(self, class_counts: list[float], num_samples: int, reduction: Reduction = "mean") -> None:
        super().__init__("DistributionBalancedLoss", reduction, class_counts=class_counts, num_samples=num_samples)
