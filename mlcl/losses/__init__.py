"""Losses, one file each. A new loss needs one line here; then its name is enough.

Needs torch alone: ``from mlcl.losses import LabelContrastiveLoss`` imports neither Lightning nor timm (timm only when
one of its losses is made).
"""

from mlcl.losses.asymmetric import AsymmetricLoss as AsymmetricLoss
from mlcl.losses.bank import EmbeddingBank as EmbeddingBank
from mlcl.losses.base import ClassificationLoss as ClassificationLoss
from mlcl.losses.base import EmbeddingLoss as EmbeddingLoss
from mlcl.losses.binary_cross_entropy import BinaryCrossEntropy as BinaryCrossEntropy
from mlcl.losses.discriminative import DiscriminativeLoss as DiscriminativeLoss
from mlcl.losses.distribution_balanced import DistributionBalancedLoss as DistributionBalancedLoss
from mlcl.losses.dual_contrastive import DualContrastiveLoss as DualContrastiveLoss
from mlcl.losses.jaccard_supcon import JaccardSupConLoss as JaccardSupConLoss
from mlcl.losses.label_contrastive import LabelContrastiveLoss as LabelContrastiveLoss
from mlcl.losses.mulsupcon import MulSupConLoss as MulSupConLoss
from mlcl.losses.poly import PolyLoss as PolyLoss
from mlcl.losses.projector import Projector as Projector
from mlcl.losses.prototype_contrastive import PrototypeContrastiveLoss as PrototypeContrastiveLoss
from mlcl.losses.two_way import TwoWayLoss as TwoWayLoss
from mlcl.losses.zlpr import ZLPRLoss as ZLPRLoss

_known = [value for value in list(globals().values()) if isinstance(value, type)]
CLASSIFICATION_LOSSES: dict[str, type] = {
    c.__name__: c for c in _known if issubclass(c, ClassificationLoss) and c is not ClassificationLoss
}
EMBEDDING_LOSSES: dict[str, type] = {
    c.__name__: c for c in _known if issubclass(c, EmbeddingLoss) and c is not EmbeddingLoss
}
