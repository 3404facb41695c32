"""Run folders and what lies in them: configuration, environment, checkpoints, results."""

from mlcl.runs.folders import (
    CHECKPOINTS,
    CONFIG,
    best_checkpoint,
    describe,
    discard_if_untouched,
    how_to_continue,
    last_checkpoint,
    new_folder,
    note_environment,
    run_of,
    tidy,
)

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "best_checkpoint",
    "describe",
    "discard_if_untouched",
    "how_to_continue",
    "last_checkpoint",
    "new_folder",
    "note_environment",
    "run_of",
    "tidy",
]
