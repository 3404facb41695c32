"""Checks of the file names in annotation files, which may come from strangers."""

import os
import sys
from pathlib import Path

from mlcl.errors import MlclError


def checked(name: object, place: str) -> str:
    """The name, if a file can have it; else MlclError, whose message begins with ``place``, the file and entry."""
    if not isinstance(name, str) or not name.strip(" ./"):
        raise MlclError(f"{place}: {short(repr(name))} is no file name")
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair, or the locale is C
        encoded = b"\0"
    if b"\0" in encoded:
        encoding = sys.getfilesystemencoding()
        raise MlclError(f"{place}: {short(ascii(name))} cannot be a file's name (in {encoding}; see PYTHONUTF8)")
    return name


def below(folder: Path, name: str, root: Path, place: str) -> Path:
    """``folder / name``, which must lie in ``root``. Links are not resolved: they may point to other disks.

    Raises:
        MlclError: if it lies elsewhere.
    """
    path = folder / name
    if ".." in name or os.path.isabs(name):  # resolving all of COCO's 82,783 names would take seconds
        inside = os.path.abspath(root)
        if os.path.commonpath([inside, os.path.abspath(path)]) != inside:
            raise MlclError(f"{place}: {short(name)} leads out of the dataset's folder {root}")
    return path


def written_on_windows(path: Path | str) -> str:
    """What to add to the message that a file is missing, if that is the likely cause."""
    return "; was the path written on Windows? use / for its \\" if os.sep == "/" and "\\" in str(path) else ""


def short(text: str) -> str:
    """At most about 200 characters for a message; of a longer text, its beginning and its end."""
    return text if len(text) <= 200 else f"{text[:90]}...{text[-90:]}"
