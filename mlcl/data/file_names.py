"""File names from annotation files, which others wrote: what no file can be called, what leads out of the dataset."""

import os
import sys
from pathlib import Path

from mlcl.errors import MlclError

_LONGEST = 4096  # what Linux takes for a path; NumPy would keep 4 bytes per character for every other name, too


def checked(name: object, place: str) -> str:
    """A name that a file can have.

    Args:
        name: as the annotation file gives it.
        place: where it stands, for the message.

    Raises:
        MlclError: if it is no text, or none that names a file.
    """
    if not isinstance(name, str) or not name.strip(" ./"):
        raise MlclError(f"{place}: {short(repr(name))} is no file name")
    if len(name) > _LONGEST:
        raise MlclError(f"{place}: a file name of {len(name):,} characters, {short(name)}")
    if "\0" in name or not _encodes(name, "utf-8"):
        raise MlclError(f"{place}: no file can be called {short(ascii(name))}")
    if not _encodes(name, encoding := sys.getfilesystemencoding()):
        raise MlclError(f"{place}: {short(ascii(name))} is no name in {encoding}; set PYTHONUTF8=1 in the environment")
    return name


def below(folder: Path, name: str, root: Path, place: str) -> Path:
    """``folder / name``, as long as that lies in ``root``.

    The path alone is looked at: links in the dataset may point elsewhere, which is how many keep theirs on other disks.

    Args:
        folder: that the name is relative to.
        name: as the annotation file gives it.
        root: of the dataset.
        place: where it stands, for the message.

    Raises:
        MlclError: if it is absolute, or climbs with ``..``, and does not end inside.
    """
    path = folder / name
    if ".." in name or os.path.isabs(name):  # else there is nothing to resolve, 82,783 times
        inside = os.path.abspath(root)
        if os.path.commonpath([inside, os.path.abspath(path)]) != inside:
            raise MlclError(f"{place}: {short(name)} leads out of the dataset's folder {root}; it is not read")
    return path


def short(text: str) -> str:
    """A text of any length for a message, its middle left out."""
    return text if len(text) <= 200 else f"{text[:90]}...{text[-90:]}"


def _encodes(name: str, encoding: str) -> bool:
    try:
        name.encode(encoding, sys.getfilesystemencodeerrors())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return False
    return True
