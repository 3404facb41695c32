"""Losses, one file each. A new loss is imported and listed here: then it is known by its name.

Needs torch alone: ``from mlcl.losses import LabelContrastiveLoss`` imports neither Lightning nor timm (timm only when
one of its losses is made).
"""

from mlcl.losses.asymmetric import AsymmetricLoss
from mlcl.losses.bank import EmbeddingBank
from mlcl.losses.base import ClassificationLoss, EmbeddingLoss
from mlcl.losses.binary_cross_entropy import BinaryCrossEntropy
from mlcl.losses.discriminative import DiscriminativeLoss
from mlcl.losses.distribution_balanced import DistributionBalancedLoss
from mlcl.losses.dual_contrastive import DualContrastiveLoss
from mlcl.losses.jaccard_supcon import JaccardSupConLoss
from mlcl.losses.label_contrastive import LabelContrastiveLoss
from mlcl.losses.mulsupcon import MulSupConLoss
from mlcl.losses.poly import PolyLoss
from mlcl.losses.projector import Projector
from mlcl.losses.prototype_contrastive import PrototypeContrastiveLoss
from mlcl.losses.two_way import TwoWayLoss
from mlcl.losses.zlpr import ZLPRLoss

CLASSIFICATION_LOSSES: dict[str, type] = {
    loss.__name__: loss
    for loss in (AsymmetricLoss, BinaryCrossEntropy, DistributionBalancedLoss, PolyLoss, TwoWayLoss, ZLPRLoss)
}
EMBEDDING_LOSSES: dict[str, type] = {
    loss.__name__: loss
    for loss in (
        DiscriminativeLoss,
        DualContrastiveLoss,
        JaccardSupConLoss,
        LabelContrastiveLoss,
        MulSupConLoss,
        PrototypeContrastiveLoss,
    )
}

__all__ = [
    "CLASSIFICATION_LOSSES",
    "EMBEDDING_LOSSES",
    "AsymmetricLoss",
    "BinaryCrossEntropy",
    "ClassificationLoss",
    "DiscriminativeLoss",
    "DistributionBalancedLoss",
    "DualContrastiveLoss",
    "EmbeddingBank",
    "EmbeddingLoss",
    "JaccardSupConLoss",
    "LabelContrastiveLoss",
    "MulSupConLoss",
    "PolyLoss",
    "Projector",
    "PrototypeContrastiveLoss",
    "TwoWayLoss",
    "ZLPRLoss",
]
