"""What is done with a trained checkpoint: load, predict, calibrate, export."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcl.inference.model import Model as Model
    from mlcl.inference.model import Prediction as Prediction
    from mlcl.inference.model import load as load


def __getattr__(name: str) -> Any:
    """These three, imported on first use: an ONNX file is predicted from without torch."""
    if name in ("Model", "Prediction", "load"):
        from mlcl.inference import model

        return getattr(model, name)
    raise AttributeError(f"module 'mlcl.inference' has no attribute {name!r}")
