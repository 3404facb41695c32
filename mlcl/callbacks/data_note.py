"""Which data a run trains on, for its ``environment.json``; a repeat or a continued run is told of other data."""

import os
from collections.abc import Sequence
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from mlcl import runs
from mlcl.runs import provenance
from mlcl.system.console import say


class DataNote(Callback):
    """Writes the fingerprint of every split; says where it is not that of a run which this one repeats.

    Should the folder be removed while the run goes on, its notes are written again with the next checkpoint.

    Args:
        folder: of the run.
        repeated: folders of the runs that this one repeats or continues.
    """

    def __init__(self, folder: Path, repeated: Sequence[Path] = ()) -> None:
        self.folder, self.repeated = folder, repeated
        self.now: dict[str, str] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once the splits are read."""
        data = getattr(trainer, "datamodule", None)
        if not trainer.is_global_zero or data is None:
            return
        made: dict[int, str] = {}  # val and test may be the same images
        for samples in data.splits.values():
            if id(samples) not in made:
                made[id(samples)] = provenance.fingerprint(samples.paths, samples.targets, data.root)
        self.now = now = {split: made[id(samples)] for split, samples in data.splits.items()}
        for run in self.repeated:
            if splits := provenance.differing(provenance.recorded_data(run), now):
                say(
                    f"warning: not the data of {os.path.relpath(run)}: other files or labels in {', '.join(splits)}; "
                    "its numbers are not repeated"
                )
        runs.note_environment(self.folder, data=now)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """A checkpoint whose run has lost its configuration would not be known as a run any more."""
        if trainer.is_global_zero and not (self.folder / runs.CONFIG).is_file():
            say(f"warning: {os.path.relpath(self.folder)} was removed while it is written to; it is made again")
            runs.describe(self.folder, getattr(pl_module, "config", None) or {})
            runs.note_environment(self.folder, data=self.now)
