"""Open Images, by its image-level labels."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.dataset import Samples
from mlcl.data.file_names import below, short
from mlcl.data.images import ImageError
from mlcl.data.labels import ABSENT, PRESENT, UNKNOWN
from mlcl.data.open_images_table import MACHINE, NO, YES, Labels, read_labels
from mlcl.data.options import one_of
from mlcl.data.splits import Split
from mlcl.data.table import read_rows
from mlcl.errors import MlclError

_FOLDERS: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}
_SPELLINGS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
_CELL = 4  # bytes per image and class at the peak: targets, what is said, and masks


class OpenImages(MultiLabelDataModule):
    """Open Images V4 to V7 (arXiv 1811.00982): present or absent where a human verified it, else unknown.

    ``root`` holds the tables with ImageID, Source, LabelName and Confidence, such as
    ``oidv6-train-annotations-human-imagelabels.csv``, and the class descriptions, both also in ``annotations/``, and
    the pictures ``train/<ImageID>.jpg``, ``validation/`` and ``test/``. The images of a split are those with a label of
    the classes, by their ids.

    Classes are told apart by their id, as some display names belong to several: each of these is named
    "Name (/m/01g317)". Where human labels contradict each other, the class is unknown in that image, and they are
    counted: nothing says which one is right, and a few among millions are no reason to refuse the others.

    Args:
        root: folder of the dataset.
        train: table of the training labels, relative to ``root``; by default found by its name. A test of a finished
            run does without it.
        val: the same for the validation.
        test: the same for the test.
        images: listed demands every image of the tables; present takes those that are there.
        classes: ids in order, or a file of ids relative to ``root``, one per line (``oidv7-classes-trainable.txt``). By
            default those with a label in the training images, sorted.
        machine_confidence: a class that a machine gives at least this confidence is present, unless humans say
            otherwise; ``...-annotations-machine-imagelabels.csv`` is read, too. By default machine labels are not used.
        descriptions: table of the display names, relative to ``root``; by default found by its name. Without one, the
            names are the ids.
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: for a missing table, or several that may be meant, a wrong row, an id that no table has, or targets
            that do not fit into the memory.
    """

    def __init__(
        self,
        root: str = "data/open_images",
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        images: Literal["listed", "present"] = "listed",
        classes: list[str] | str | None = None,
        machine_confidence: float | None = None,
        descriptions: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root=root, **settings)
        one_of("images", images, "listed", "present")
        if machine_confidence is not None and not 0 < machine_confidence <= 1:
            raise MlclError(f"data.machine_confidence is {machine_confidence}, it must lie in (0, 1]")
        self.images, self.machine_confidence = images, machine_confidence
        given: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        found = {split: self._tables(split, name, bool(classes)) for split, name in given.items()}
        self.files = {split: files for split, files in found.items() if files}
        self.test_only = bool(classes) and "train" not in self.files and bool(self.files)
        if "train" not in self.files and not self.test_only:
            raise MlclError(
                f"{self.root} has no table train-annotations-human-imagelabels.csv (oidv6-..., oidv7-...), nor has its "
                "annotations/; check --data.root, or name it with --data.train"
            )
        self._labels: dict[Split, Labels] = {}
        names = self._display_names(descriptions)
        self._wanted = self._ids(classes) if classes else None
        self.mids = self._wanted or sorted(self._labels_of("train").mids)
        if not self.test_only and (lost := [m for m in self.mids if m not in names | self._labels_of("train").mids]):
            raise MlclError(f"data.classes: {short(lost[0])} is in no class description and no training label")
        shared = Counter(names.values())
        named = ((mid, names.get(mid) or mid) for mid in self.mids)
        self.classes = tuple(f"{name} ({mid})" if shared[name] > 1 else name for mid, name in named)

    def portable_arguments(self) -> dict[str, Any]:
        """As in the base, with the ids of the classes: the images of another folder may have others."""
        return {**super().portable_arguments(), "classes": list(self.mids)}

    def prepare_data(self) -> None:
        """Check that every image is there."""
        try:
            super().prepare_data()
        except ImageError as error:
            raise ImageError(f"{error}; --data.images present takes those that are there") from None

    def read_split(self, split: Split) -> Samples | None:
        """From the tables of the split."""
        if split not in self.files:
            return None
        labels, folder, place = self._labels_of(split), self.root / _FOLDERS[split], str(self.files[split][0])
        count, classes, there = len(labels.images), len(self.mids), _memory()
        if count * classes * _CELL > there:
            raise MlclError(
                f"{split}: labels of {count:,} images and {classes:,} classes take {count * classes * _CELL / 1e9:.0f} "
                f"GB, the memory is {there / 1e9:.0f} GB: choose --data.classes, or --data.images present"
            )
        ids = sorted(labels.images)
        row, column = np.empty(count, dtype=np.int64), np.full(len(labels.mids), -1)
        row[[labels.images[id] for id in ids]] = np.arange(count)
        for k, mid in enumerate(self.mids):
            if mid in labels.mids:
                column[labels.mids[mid]] = k
        rows, columns = row[labels.image], column[labels.mid]
        said = np.zeros((count, classes), dtype=np.uint8)
        for what in (YES, NO, MACHINE):
            here = (labels.said == what) & (columns >= 0)
            said[rows[here], columns[here]] |= what
        human = said & (YES | NO)
        if both := int((human == (YES | NO)).sum()):
            text = f"human labels call a class present and absent in one image {both:,} times; it is unknown there"
            self.notes[f"{split} contradictions"] = f"{split}: {text}"
        targets = np.full(said.shape, UNKNOWN, dtype=np.int8)
        targets[(human == YES) | (said == MACHINE)] = PRESENT
        targets[human == NO] = ABSENT
        return Samples([below(folder, f"{id}.jpg", self.root, place) for id in ids], targets)

    def _tables(self, split: Split, name: str | None, stored: bool) -> list[Path]:
        """The table of a split, and that of the machine if it is to be used; none where neither is there."""
        named = [f"{start}{s}-annotations-%s-imagelabels*.csv" for s in _SPELLINGS[split] for start in ("", "oidv*-")]
        option = f"data.{split}"
        files = [self.root / os.path.expanduser(name)] if name else self._one([p % "human" for p in named], option)
        if name and not files[0].is_file():
            if split == "train" and stored:  # a finished run is tested elsewhere
                return []
            raise MlclError(f"{files[0]} cannot be read: no such file ({option})")
        if files and self.machine_confidence is not None:
            files += self._one([pattern % "machine" for pattern in named], option)
        return files

    def _one(self, patterns: Sequence[str], option: str) -> list[Path]:
        """The one file of such a name, or none."""
        places = self.root, self.root / "annotations"
        found = sorted({file for place in places for pattern in patterns for file in place.glob(pattern)})
        if len(found) > 1:
            several = " and ".join(short(str(file)) for file in found[:2])
            raise MlclError(f"{several} may both be meant: choose with --{option} FILE, or keep only one there")
        return found

    def _labels_of(self, split: Split) -> Labels:
        """What the tables of a split say of the images and classes that are used; they are read once."""
        if split not in self._labels:
            folder, present = self.root / _FOLDERS[split], None
            if self.images == "present":
                names = os.listdir(folder) if folder.is_dir() else []
                present = {name.removesuffix(".jpg") for name in names if name.endswith(".jpg")}
            wanted = None if self._wanted is None else set(self._wanted)
            labels = read_labels(self.files[split], present, wanted, self.machine_confidence)
            if not labels.images:
                where = f"picture in {folder}" if present is not None else "image"
                raise MlclError(
                    f"{self.files[split][0]}: no {where} has a label of the classes: check --data.root and data.classes"
                )
            if present is not None:
                text = f"{len(labels.images):,} images are used; others that have labels are not in {folder}"
                self.notes[f"{split} images"] = f"{split}: {text}"
            self._labels[split] = labels
        return self._labels[split]

    def _ids(self, classes: list[str] | str) -> list[str]:
        """The ids that are asked for."""
        where, ids = "data.classes", classes
        if isinstance(classes, str):
            where = str(self.root / os.path.expanduser(classes))
            rows = read_rows(Path(where), "LabelName", "data.classes").values()
            ids = [row[0].strip() for row in rows if row[0].strip() != "LabelName"]
        if twice := [id for id, times in Counter(ids).items() if times > 1]:
            raise MlclError(f"{where} names {short(twice[0])!r} more than once")
        if wrong := [id for id in ids if not id.startswith("/")]:
            raise MlclError(f"{where}: {short(wrong[0])!r} is no id of a class; these look like /m/01g317")
        return list(ids)

    def _display_names(self, descriptions: str | None) -> dict[str, str]:
        """Of each class in the table of descriptions, whose first row may be a header."""
        if descriptions:
            files = [self.root / os.path.expanduser(descriptions)]
        else:
            names = "class-descriptions.csv", "oidv*-class-descriptions.csv"
            boxable = "class-descriptions-boxable.csv", "oidv*-class-descriptions-boxable.csv"
            option = "data.descriptions"
            files = self._one(names, option) or self._one(boxable, option)
        rows = read_rows(files[0], "LabelName", "data.descriptions") if files else {}
        if wrong := [number for number, row in rows.items() if len(row) != 2]:
            raise MlclError(f"{files[0]}, row {wrong[0]}: it must be an id and a name")
        return {id.strip(): name.strip() for id, name in rows.values() if id.strip() != "LabelName"}


def _memory() -> float:
    """Bytes of this machine, as far as it says."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else float("inf")
