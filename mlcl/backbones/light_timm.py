"""timm without Weights & Biases, which it imports wherever that is installed (1.0.31): a second of every start."""

import sys

if "wandb" in sys.modules:
    import timm
    import timm.loss
else:
    sys.modules["wandb"] = None  # type: ignore[assignment]  # to timm as if it were not installed
    try:
        import timm
        import timm.loss
    finally:
        del sys.modules["wandb"]

__all__ = ["timm"]
