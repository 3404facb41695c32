"""The image files that a user names for a prediction."""

import glob
import os
from abc import abstractmethod
from collections.abc import Sequence

from PIL import Image

from mlcl.errors import MlclError

Image.init()
PACK, UNFINISHED = "mlcl.json", "packing.json"  # in the folder of a pack, and of an unfinished one, see pack.py
ENDINGS = frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN) - {
    ".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr",  # not for Pillow alone
}  # fmt: skip


class Elsewhere(Sequence[str]):
    """Images that are not all files of this machine, by the names that they have in the output."""

    @abstractmethod
    def content(self, index: int) -> bytearray | None:
        """What the file of an image would hold, None if it is a file of this machine; ImageError if it is gone."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Changes with the images and their order."""


def content_of(paths: Sequence[str], index: int) -> bytearray | None:
    """The content of an image, unless it is a file of this machine, which is read by its path."""
    return paths.content(index) if isinstance(paths, Elsewhere) else None


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
            elif given or is_image(place):
                images.append(place)
        if not images:
            what = "no image in there (by the endings: .jpg, .png, ...)" if given else "no image there matches"
            if os.path.isfile(os.path.join(pattern, UNFINISHED)):
                what = "an unfinished pack: the same mlcl pack command finishes it"
            raise MlclError(f"--images {pattern}: {what}")
        for path in images:
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _in_folder(folder: str) -> list[str]:
    """Depth first, by name; symbolic links to folders are not followed, since they may lead round in a circle."""

    def stop(error: OSError) -> None:
        raise MlclError(f"--images {error.filename} cannot be read: {error.strerror}") from error

    walk = os.walk(folder, onerror=stop)
    images = [os.path.join(place, name) for place, _, names in walk for name in names if is_image(name)]
    return sorted(images, key=lambda path: path.split(os.sep))


def is_image(path: str) -> bool:
    """Whether a name ends like that of an image."""
    return os.path.splitext(path)[1].lower() in ENDINGS


def is_pack(word: str) -> bool:
    """Whether this is the folder of a pack."""
    return os.path.isfile(os.path.join(word, PACK))
