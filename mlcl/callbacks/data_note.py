"""Which data a run trains on, written into its ``environment.json``; a repeat on other data gets a warning."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from mlcl.data.images import Pictures
from mlcl.runs import provenance
from mlcl.system.console import say


def fingerprints(data: Any) -> dict[str, str]:
    """Hash of every split of a datamodule (None: no splits) after its ``setup``; see :func:`provenance.fingerprint`."""
    splits = data.splits if data is not None else {}
    made = {id(samples): samples for samples in splits.values()}  # val and test may be the same images
    # What is packed has no files to look at; its key knows their names, sizes and content.
    paths = {k: [Path("/", s.paths.key)] if isinstance(s.paths, Pictures) else s.paths for k, s in made.items()}
    hashes = {key: provenance.fingerprint(paths[key], s.targets, data.root) for key, s in made.items()}
    return {split: hashes[id(samples)] for split, samples in splits.items()}


class DataNote(Callback):
    """Writes the fingerprint of every split, and warns if it differs from a run that this one repeats or continues."""

    def __init__(self, folder: Path, repeated: Sequence[Path] = ()) -> None:
        self.folder, self.repeated = folder, repeated

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once the splits are read."""
        if not trainer.is_global_zero:
            return
        now = fingerprints(getattr(trainer, "datamodule", None))
        for run in self.repeated:
            before = provenance.recorded_data(run)
            if splits := [split for split, known in before.items() if now.get(split, known) != known]:
                say(
                    f"warning: not the data of {os.path.relpath(run)}: other files or labels in {', '.join(splits)}; "
                    "its numbers are not repeated"
                )
        provenance.note_environment(self.folder, data=now)
