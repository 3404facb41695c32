"""What is done with a trained checkpoint: load, predict, calibrate, export."""

from mlcl.inference.model import Model, Prediction, load

__all__ = ["Model", "Prediction", "load"]
