"""What is said to the person at the terminal: by the first process only, on stderr; results go to stdout."""

import logging
import os
import re
import sys
import warnings

from mlcl.errors import visible

_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in the order in which Lightning reads them
title = ""  # in front of every line, where several trainings run side by side


def is_first() -> bool:
    """Whether this is the first process, as far as its launcher has said; true where there is only one."""
    lightning = sys.modules.get("lightning.pytorch.utilities")  # it knows of the processes that it started itself
    if known := getattr(lightning, "rank_zero_only", None):
        return bool(getattr(known, "rank", 0) == 0)
    return int(next((os.environ[name] for name in _RANKS if name in os.environ), "0")) == 0


def say(line: str) -> None:
    """Print a line, once for all processes."""
    if is_first():
        print(visible(f"{title}{line}"), file=sys.stderr, flush=True)


def quieten() -> None:
    """Silence what Lightning says at every start and a user of ours can do nothing about."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for every retry
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(lambda line: not re.search(_NOISE, line.getMessage()))
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message)


_NOISE = (
    "\U0001f4a1|^(GPU|TPU|HPU) avail|`Trainer.fit` stopped|^(Restor|Loaded model|Loading `|Found curr)|"
    r"^(\[rank: \d+\] )?Seed set|^Initializing distributed|^-+\ndistributed_backend="
)
_HARMLESS = (
    r".*does not have many workers",  # our own default, chosen by the user
    r".*number of training batches .* smaller than the logging interval",  # tiny datasets are fine
    r".*Checkpoint directory .* exists and is not empty",  # a continued run
    r"The dirpath has changed from",  # a run that goes on in a new folder
    r".*It is recommended to use `self.log",  # our metrics are the same on every rank already
    r".*it is recommended to use `Trainer\(devices=1",  # our metrics drop what a distributed sampler repeats
    r"Grad strides do not match",  # a 1x1 convolution's weight has two layouts at once under channels_last
    r".*callbacks used to create the checkpoint need to be provided",  # a test needs neither EMA nor checkpoints
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen BatchNorms are
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # lightning 2.6.6 with a newer torch
)
