"""Everything optional around training, one file each."""

from mlcl.callbacks.csv_log import CSVLog
from mlcl.callbacks.data_note import DataNote
from mlcl.callbacks.ema import EMA
from mlcl.callbacks.finite import Finite
from mlcl.callbacks.gradients import GradientNorms
from mlcl.callbacks.logged_results import LoggedResults
from mlcl.callbacks.one_run import OneRun
from mlcl.callbacks.progress import EpochLines, ImageProgressBar
from mlcl.callbacks.results import Results
from mlcl.callbacks.safe_checkpoints import Interruptible, SafeCheckpointIO, best_and_last, prepared

__all__ = [
    "EMA",
    "CSVLog",
    "DataNote",
    "EpochLines",
    "Finite",
    "GradientNorms",
    "ImageProgressBar",
    "Interruptible",
    "LoggedResults",
    "OneRun",
    "Results",
    "SafeCheckpointIO",
    "best_and_last",
    "prepared",
]
