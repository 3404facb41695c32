"""Multi-label contrastive learning: image classifiers for pictures with many labels."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcl.inference import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """``mlcl.load``, imported on first use: ``mlcl --help`` must not wait for torch."""
    if name == "load":
        from mlcl.inference import load

        return load
    raise AttributeError(f"module 'mlcl' has no attribute {name!r}")
