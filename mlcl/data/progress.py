"""A progress bar over the batches of a loader."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader


def with_progress(loader: DataLoader[Any], what: str) -> Iterable[Any]:
    """The batches of a loader, with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():  # rich before 15 prints an empty line even if the bar is disabled
        return loader
    return track(loader, what, console=Console(stderr=True))
