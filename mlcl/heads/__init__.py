"""Heads, one file each. A new file here is found by itself: selectable by name, contract-tested, listed."""

from mlcl.heads.base import Head, HeadOutput, PerClassLinear
from mlcl.system.discovery import import_all, public_classes

_modules = import_all(__name__, list(__path__))
HEADS: dict[str, type] = public_classes(_modules, Head)
globals().update(HEADS)

__all__ = ["HEADS", "Head", "HeadOutput", "PerClassLinear"]
__all__ += [*HEADS]
