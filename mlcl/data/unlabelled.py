"""Images that nobody labelled: which files there are, and reading them without stopping at a broken one."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from mlcl.data.augment import Transform
from mlcl.data.images import ImageError, read_image
from mlcl.errors import MlclError

Image.init()
ENDINGS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN) - {
    ".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr",  # no pictures for Pillow alone
}  # fmt: skip


def find_images(patterns: Sequence[str]) -> list[str]:
    """The image files that folders, files and glob patterns name, each once, in a fixed order.

    In folders (searched with all that lies below them) and globs the ending decides what is an image; a file named by
    itself is taken as one whatever its ending. A folder that is named like an image and holds none is listed too, so
    that it is reported instead of passed over.

    Args:
        patterns: as a user gives them; ``**`` in a glob crosses folders.

    Raises:
        MlclError: if one of them names no image.
    """
    found: dict[str, str] = {}  # by place: "a" and "./a" are one
    for pattern in patterns:
        given = os.path.lexists(pattern)
        named = [pattern] if given else [p for p in sorted(glob.glob(pattern, recursive=True)) if _is_wanted(p)]
        images = [path for place in named for path in (_in_folder(place) if os.path.isdir(place) else [place])]
        if not images:
            what = "no image in there (by the endings: .jpg, .png, ...)" if given else "no image there matches"
            raise MlclError(f"--images {pattern}: {what}")
        for path in images:
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _is_wanted(path: str) -> bool:
    """Of what a glob matches: folders and images."""
    return os.path.isdir(path) or _is_image(os.path.basename(path))


def _in_folder(folder: str) -> Iterator[str]:
    """Depth first, by name; symbolic links to folders are not followed, since they may lead round in a circle."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    nothing = True
    for entry in entries:
        is_folder = entry.is_dir(follow_symlinks=False)
        for path in _in_folder(entry.path) if is_folder else [entry.path] if _is_image(entry.name) else []:
            nothing = False
            yield path
    if nothing and _is_image(os.path.basename(folder)):
        yield folder


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in ENDINGS


@dataclass
class FolderDataset(Dataset[dict[str, Any]]):
    """Pictures without labels.

    Args:
        paths: of the images.
        preprocess: a picture (3, H, W) uint8 to what the network sees, (3, S, S) uint8.
        image_size: S.
    """

    paths: Sequence[str]
    preprocess: Transform
    image_size: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, S, S) uint8, ``index``, ``error``: empty, or why it could not be read (then it is black)."""
        try:
            image = self.preprocess(read_image(Path(self.paths[index])))
            return {"image": image, "index": index, "error": ""}
        except ImageError as error:
            reason = str(error).removeprefix(f"{Path(self.paths[index])}: ")
            black = torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8)
            return {"image": black, "index": index, "error": reason}
