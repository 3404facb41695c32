"""timm, imported without what it would bring along for a start that does not need it."""

from mlcl.backbones.light_imports import light_imports

with light_imports():
    import timm
    import timm.loss

__all__ = ["timm"]
