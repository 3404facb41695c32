"""Everything optional around training, one file each."""

from mlcl.callbacks.csv_log import CSVLog as CSVLog
from mlcl.callbacks.data_note import DataNote as DataNote
from mlcl.callbacks.ema import EMA as EMA
from mlcl.callbacks.embedding_ramp import EmbeddingRamp as EmbeddingRamp
from mlcl.callbacks.fast_step import FastStep as FastStep
from mlcl.callbacks.finite import Finite as Finite
from mlcl.callbacks.freeze_first import FreezeFirst as FreezeFirst
from mlcl.callbacks.gradients import GradientNorms as GradientNorms
from mlcl.callbacks.logged_results import LoggedResults as LoggedResults
from mlcl.callbacks.monitors import Monitors as Monitors
from mlcl.callbacks.one_run import OneRun as OneRun
from mlcl.callbacks.pos_weight import PosWeight as PosWeight
from mlcl.callbacks.progress import EpochLines as EpochLines
from mlcl.callbacks.progress import ImageProgressBar as ImageProgressBar
from mlcl.callbacks.reproducible import Reproducible as Reproducible
from mlcl.callbacks.results import Results as Results
from mlcl.callbacks.run_checkpoints import best_and_last as best_and_last
from mlcl.callbacks.safe_checkpoints import Interruptible as Interruptible
from mlcl.callbacks.safe_checkpoints import SafeCheckpointIO as SafeCheckpointIO
from mlcl.callbacks.safe_checkpoints import prepared as prepared
from mlcl.callbacks.schedule_check import ScheduleCheck as ScheduleCheck
from mlcl.callbacks.second_stage import SecondStage as SecondStage
from mlcl.callbacks.spread import EmbeddingSpread as EmbeddingSpread
from mlcl.callbacks.users import UsersCallbacks as UsersCallbacks
from mlcl.callbacks.users import admit as admit
from mlcl.callbacks.users import refuse as refuse
