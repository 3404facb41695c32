"""Visual Genome with 500 classes, by the lists of SSGRL (Chen et al., ICCV 2019)."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.dataset import Samples
from mlcl.data.file_names import below, checked, short
from mlcl.data.labels import encode
from mlcl.data.splits import Split
from mlcl.errors import MlclError

_CLASSES = 500
_LABELS = "vg_category_500_labels_index.json"
_LISTS: dict[Split, str] = {"train": "train_list_500.txt", "test": "test_list_500.txt"}
_FOLDERS = ("VG_100K", "VG_100K_2", "images")


class VG500(MultiLabelDataModule):
    """Visual Genome 500: 82,904 images to train, 10,000 to test, in SSGRL's lists.

    ``root`` holds ``train_list_500.txt`` and ``test_list_500.txt`` (a file name on each line),
    ``vg_category_500_labels_index.json`` (file name -> class indices from 0), and the pictures in ``VG_100K/`` and
    ``VG_100K_2/``, or all of them in one of the two or in ``images/``. The lists name no class.

    Args:
        names: text file of the 500 classes' names, one on each line, relative to ``root``; by default they are
            ``class 000`` to ``class 499``.
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: for a missing or wrong file, an image without labels in the index, a class that is not one of 500.
    """

    classes = tuple(f"class {k:03d}" for k in range(_CLASSES))

    def __init__(self, root: str = "data/vg500", names: str | None = None, **settings: Any) -> None:
        super().__init__(root=root, **settings)
        if names:
            file = self.root / os.path.expanduser(names)
            self.classes = tuple(_lines(file))
            if len(set(self.classes)) != _CLASSES or len(self.classes) != _CLASSES:
                raise MlclError(f"{file} names {len(set(self.classes))} different classes, not {_CLASSES} (data.names)")
        self._indices: dict[str, Any] | None = None

    def read_split(self, split: Split) -> Samples | None:
        """The images of a list; there is no validation split of its own."""
        if split not in _LISTS:
            return None
        listing, labels = self.root / _LISTS[split], self.root / _LABELS
        names = [checked(name, str(listing)) for name in _lines(listing)]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise MlclError(f"{listing} lists {short(twice[0])} twice")
        if self._indices is None:
            self._indices = _index(labels)
        for name in names:
            own = self._indices.get(name)
            if own is None:
                raise MlclError(f"{labels} has no labels of {short(name)}, which {listing.name} lists")
            if not isinstance(own, list) or any(type(k) is not int or not 0 <= k < _CLASSES for k in own):
                raise MlclError(
                    f"{labels}, {short(name)}: {short(str(own))} is no list of indices from 0 to {_CLASSES - 1}"
                )
        present = [self._indices[name] for name in names]
        folders = [self.root / folder for folder in _FOLDERS]
        there = [folder for folder in folders if folder.is_dir()] or folders[:1]
        where = {name: folder for folder in reversed(there) if folder.is_dir() for name in os.listdir(folder)}
        paths = [below(where.get(name, there[0]), name, self.root, str(listing)) for name in names]
        return Samples(paths, encode(present, _CLASSES))


def _lines(file: Path) -> list[str]:
    """The lines that are not blank."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MlclError(f"{file} cannot be read: {reason}; give --data.root the folder of SSGRL's lists") from None
    return [line.strip() for line in lines if line.strip()]


def _index(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MlclError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise MlclError(f"{file} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise MlclError(f"{file} must be a JSON object, file name -> class indices")
    return content
