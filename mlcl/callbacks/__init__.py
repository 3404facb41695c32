"""Everything optional around training, one file each."""

from mlcl.callbacks.csv_log import CSVLog
from mlcl.callbacks.data_note import DataNote
from mlcl.callbacks.ema import EMA
from mlcl.callbacks.embedding_ramp import EmbeddingRamp
from mlcl.callbacks.fast_step import FastStep
from mlcl.callbacks.finite import Finite
from mlcl.callbacks.gradients import GradientNorms
from mlcl.callbacks.logged_results import LoggedResults
from mlcl.callbacks.one_run import OneRun
from mlcl.callbacks.progress import EpochLines, ImageProgressBar
from mlcl.callbacks.reproducible import Reproducible
from mlcl.callbacks.results import Results
from mlcl.callbacks.safe_checkpoints import Interruptible, SafeCheckpointIO, best_and_last, prepared
from mlcl.callbacks.schedule_check import ScheduleCheck
from mlcl.callbacks.second_stage import SecondStage
from mlcl.callbacks.spread import EmbeddingSpread

__all__ = [
    "EMA",
    "CSVLog",
    "DataNote",
    "EmbeddingRamp",
    "EmbeddingSpread",
    "EpochLines",
    "FastStep",
    "Finite",
    "GradientNorms",
    "ImageProgressBar",
    "Interruptible",
    "LoggedResults",
    "OneRun",
    "Reproducible",
    "Results",
    "SafeCheckpointIO",
    "ScheduleCheck",
    "SecondStage",
    "best_and_last",
    "prepared",
]
