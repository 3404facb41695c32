"""Which data a run trains on, written into its ``environment.json``; a repeat on other data gets a warning."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mlcl.runs import folders, provenance
from mlcl.system.console import say


def fingerprints(data: Any) -> dict[str, str]:
    """Hash of every split of a datamodule (None: no splits) after its ``setup``; see :func:`provenance.fingerprint`."""
    splits = data.splits if data is not None else {}
    made = {id(samples): samples for samples in splits.values()}  # val and test may be the same images
    hashes = {key: provenance.fingerprint(s.paths, s.targets, data.root) for key, s in made.items()}
    return {split: hashes[id(samples)] for split, samples in splits.items()}


class DataNote(Callback):
    """Writes the fingerprint of every split, and warns if it differs from a run that this one repeats or continues.

    If the run's folder is removed meanwhile, its notes are written again with the next checkpoint.

    Args:
        folder: of the run.
        repeated: folders of the runs that this one repeats or continues.
    """

    def __init__(self, folder: Path, repeated: Sequence[Path] = ()) -> None:
        self.folder, self.repeated = folder, repeated
        self.now: dict[str, str] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once the splits are read."""
        if not trainer.is_global_zero:
            return
        self.now = fingerprints(getattr(trainer, "datamodule", None))
        for run in self.repeated:
            if splits := provenance.differing(provenance.recorded_data(run), self.now):
                say(
                    f"warning: not the data of {os.path.relpath(run)}: other files or labels in {', '.join(splits)}; "
                    "its numbers are not repeated"
                )
        folders.note_environment(self.folder, data=self.now)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Restore a removed folder's notes: without its configuration it would not be recognised as a run."""
        if trainer.is_global_zero and not (self.folder / folders.CONFIG).is_file():
            say(f"warning: {os.path.relpath(self.folder)} was removed while it is written to; it is made again")
            folders.describe(self.folder, getattr(pl_module, "config", None) or {})
            folders.note_environment(self.folder, data=self.now)
