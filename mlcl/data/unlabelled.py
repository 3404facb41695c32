"""Images without labels, for predictions."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from mlcl.data.augment import Transform
from mlcl.data.images import ImageError, read_image
from mlcl.errors import MlclError

Image.init()
ENDINGS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN) - {
    ".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr",  # not for Pillow alone
}  # fmt: skip


def find_images(patterns: Sequence[str]) -> list[str]:
    """The image files that folders, files and glob patterns name, each once, in a fixed order.

    In folders (with all their subfolders) and globs, the ending says what is an image; a file that is named by itself
    is taken as one, whatever its ending.

    Raises:
        MlclError: if one of them names no image, or a folder cannot be read.
    """
    found: dict[str, str] = {}  # by absolute path: "a" and "./a" are the same
    for pattern in map(os.path.expanduser, patterns):
        given = os.path.lexists(pattern)
        images: list[str] = []
        for place in [pattern] if given else sorted(glob.glob(pattern, recursive=True)):
            if os.path.isdir(place):
                images += _in_folder(place)
            elif given or _is_image(place):
                images.append(place)
        if not images:
            what = "no image in there (by the endings: .jpg, .png, ...)" if given else "no image there matches"
            raise MlclError(f"--images {pattern}: {what}")
        for path in images:
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _in_folder(folder: str) -> list[str]:
    """Depth first, by name; symbolic links to folders are not followed, since they may lead round in a circle."""

    def stop(error: OSError) -> None:
        raise MlclError(f"--images {error.filename} cannot be read: {error.strerror}") from error

    walk = os.walk(folder, onerror=stop)
    images = [os.path.join(place, name) for place, _, names in walk for name in names if _is_image(name)]
    return sorted(images, key=lambda path: path.split(os.sep))


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in ENDINGS


@dataclass
class FolderDataset(Dataset[dict[str, Any]]):
    """Pictures without labels."""

    paths: Sequence[str]
    preprocess: Transform  # a picture (3, H, W) uint8 to what the network sees, (3, S, S) uint8
    image_size: int  # S
    reading: dict[str, Any] = field(default_factory=dict)  # arguments of read_image

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, S, S) uint8, ``index``, ``error``: empty, or why it could not be read (then it is black)."""
        try:
            picture = read_image(self.paths[index], **self.reading)
            return {"image": self.preprocess(picture), "index": index, "error": ""}
        except ImageError as error:
            reason = str(error).removeprefix(f"{self.paths[index]}: ").replace("--data.", "--")  # predict's options
            black = torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8)
            return {"image": black, "index": index, "error": reason}
