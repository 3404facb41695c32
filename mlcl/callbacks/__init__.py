"""Everything optional around training, one file each."""

from mlcl.callbacks.csv_log import CSVLog
from mlcl.callbacks.ema import EMA
from mlcl.callbacks.gradients import GradientNorms
from mlcl.callbacks.logged_results import LoggedResults
from mlcl.callbacks.progress import EpochLines, ImageProgressBar
from mlcl.callbacks.results import Results

__all__ = ["EMA", "CSVLog", "EpochLines", "GradientNorms", "ImageProgressBar", "LoggedResults", "Results"]
