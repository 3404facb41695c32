"""Losses, one file each. A new file here is found by itself: selectable by name, contract-tested, listed.

Needs torch alone: ``from mlcl.losses import BinaryCrossEntropy`` imports neither Lightning nor timm
(timm only when one of its losses is made).
"""

from mlcl.losses.bank import EmbeddingBank
from mlcl.losses.base import ClassificationLoss, EmbeddingLoss
from mlcl.losses.projector import Projector
from mlcl.system.discovery import import_all, public_classes

_modules = import_all(__name__, list(__path__))
CLASSIFICATION_LOSSES: dict[str, type] = public_classes(_modules, ClassificationLoss)
EMBEDDING_LOSSES: dict[str, type] = public_classes(_modules, EmbeddingLoss)
globals().update(CLASSIFICATION_LOSSES | EMBEDDING_LOSSES)

__all__ = ["CLASSIFICATION_LOSSES", "EMBEDDING_LOSSES", "ClassificationLoss", "EmbeddingLoss"]
__all__ += ["EmbeddingBank", "Projector", *CLASSIFICATION_LOSSES, *EMBEDDING_LOSSES]
