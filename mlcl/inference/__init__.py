"""What is done with a trained checkpoint: load, predict, calibrate, export."""

from mlcl.inference.model import Model as Model
from mlcl.inference.model import Prediction as Prediction
from mlcl.inference.model import load as load
