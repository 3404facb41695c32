"""Images that an annotation file lists and that do not exist."""

import os
from collections.abc import Sequence
from pathlib import Path

from mlcl.data.file_names import short
from mlcl.errors import MlclError


class MissingImages(MlclError):
    """Images of a split do not exist."""


def check_files(paths: Sequence[Path], split: str, allowed: int) -> None:
    """Check that the images of a split exist.

    Args:
        paths: of the images.
        split: its name, for the message.
        allowed: number of images that may be missing.

    Raises:
        MissingImages: if more are.
    """
    # A listing per folder instead of a stat per file: 82,783 files in a tenth of a second.
    present = {folder: set(os.listdir(folder)) for folder in {path.parent for path in paths} if os.path.isdir(folder)}
    missing = [path for path in paths if path.name not in present.get(path.parent, ())]
    if len(missing) > allowed:
        raise MissingImages(
            f"{len(missing):,} of {len(paths):,} {split} images are missing, the first is {short(str(missing[0]))}; "
            "check --data.root"
        )
