"""Where the pictures of an annotation file are: exporters write where a picture was for them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

_BY_NAME = "without their folders"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as written": lambda name: name,
    "with / for \\": lambda name: name.replace("\\", "/"),
    _BY_NAME: lambda name: name.replace("\\", "/").rpartition("/")[2],
}


class Place(NamedTuple):
    """The folder and the spelling with which most pictures of a file are there."""

    found: int  # pictures that are there
    folder: Path
    spelling: str  # a key of SPELLINGS

    @property
    def by_name(self) -> bool:
        """Whether the folders in the names had to be left out."""
        return self.spelling == _BY_NAME

    def names(self, written: Sequence[str]) -> list[str]:
        """As they are called below the folder."""
        return [SPELLINGS[self.spelling](name) for name in written]


def place_of(names: Sequence[str], folders: Sequence[Path]) -> Place:
    """The one folder, and the spelling, that finds most of the pictures; the first of those that find as many.

    ``a/1.jpg`` and ``b/1.jpg`` are never both taken for one picture ``1.jpg``.
    """
    best = Place(-1, Path(), "as written")
    present: dict[str, set[str]] = {}
    for how, spelling in SPELLINGS.items():
        spelled = [spelling(name) for name in names]
        if how == _BY_NAME and len(set(spelled)) < len(set(names)):
            continue
        for folder in folders:
            count = sum(_is_there(folder, name, present) for name in spelled)
            if count > best.found:
                best = Place(count, folder, how)
        if best.found == len(names):
            break
    return best


def as_written_or_found(root: Path, names: Sequence[str], others: Sequence[Path]) -> tuple[list[Path], str]:
    """``root / name`` of each picture; if none of them is there, where they are in ``root`` or one of the others.

    Returns:
        Paths, and a sentence without its subject if they are not as written. Where some pictures are as written, the
        rest is missing, and nothing is looked for.
    """
    paths = [root / name for name in names]
    if any(map(os.path.exists, paths)) or (place := place_of(names, list(dict.fromkeys([root, *others])))).found < 1:
        return paths, ""
    by_name = " by name alone" if place.by_name else ""
    return [place.folder / name for name in place.names(names)], f"pictures are found in {place.folder}{by_name}"


def _is_there(folder: Path, name: str, present: dict[str, set[str]]) -> bool:
    """Whether the picture exists below the folder; each folder is listed once."""
    if ".." in name or os.path.isabs(name):
        return False
    place, file = os.path.split(os.path.join(folder, name))
    if place not in present:
        present[place] = set(os.listdir(place)) if os.path.isdir(place) else set()
    return file in present[place]
