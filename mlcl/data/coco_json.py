"""Your own categories in COCO's form, as Roboflow, CVAT, Label Studio and FiftyOne export them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.coco_labels import Table, check_objects, chosen, note_unused, read_table
from mlcl.data.dataset import Samples
from mlcl.data.file_names import below, short
from mlcl.data.labels import UNKNOWN, some
from mlcl.data.places import place_of
from mlcl.data.regions import Regions, of_coco
from mlcl.data.splits import Split
from mlcl.errors import MlclError

_ALIASES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "default", "train2014", "train2017"),
    "val": ("val", "valid", "validation", "val2014", "val2017"),
    "test": ("test", "testing"),
}
_LOOSE = ("_annotations.coco.json", "result.json", "labels.json")  # Roboflow, Label Studio, FiftyOne
# Where exporters write an annotation file, in lower case: a folder per split, a name per split, or one file for all.
_KNOWN: dict[str, Split] = {f"{alias}/{file}": s for s, names in _ALIASES.items() for alias in names for file in _LOOSE}
_KINDS = ("instances", "labels")  # objects; labels of whole images, as Datumaro writes them
_KNOWN |= {f"annotations/{k}_{alias}.json": s for k in _KINDS for s, names in _ALIASES.items() for alias in names}
_KNOWN |= {file: "train" for file in _LOOSE}


class COCOJSON(MultiLabelDataModule):
    """Pictures with objects of your own categories, in files of COCO's form.

    The annotation files are those that are named, or the ones below ``root`` that Roboflow
    (``train/_annotations.coco.json``, ``valid/``, ``test/``), CVAT (``annotations/instances_train.json``,
    ``instances_validation.json``), Datumaro (the same, or ``labels_train.json``), Label Studio (``result.json``) or
    FiftyOne (``labels.json``) write. The pictures are where that exporter has them: beside the file, in its ``images/``
    or ``data/``, or in ``images/`` or a folder of the split's name beside the file's folder; of these, the one folder
    with most of a file's pictures is taken.

    A class is present in an image where it has an object, or V7's ``tag_ids`` name it, else absent. Categories are
    matched by name, so their ids may differ between the files; a class that the categories of one file lack is unknown
    in all of its images. A category without annotations in any file that is only the supercategory of others, as
    Roboflow writes, is no class.

    Args:
        root: folder of the dataset.
        train: annotation file of the training images, relative to ``root``; with one of the three, only those named
            are read. A test of a finished run does without it.
        val: annotation file of the validation images.
        test: annotation file of the test images.
        images: folder that the names of the pictures start from, relative to ``root``; by default see above.
        classes: names of the classes in order; objects of others are ignored. By default the categories of the
            training file in the order of their ids, then those that only other files have.
        min_area: smaller objects are ignored; pixels of the original picture.
        crowd: keep or drop groups outlined as one object (``iscrowd`` 1).
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: for a missing or wrong file, several files of one split, two categories of one name, or a training
            file without any annotation.
    """

    def __init__(
        self,
        root: str = "data",
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        images: str | None = None,
        classes: list[str] | None = None,
        min_area: float = 0.0,
        crowd: Literal["keep", "drop"] = "keep",
        **settings: Any,
    ) -> None:
        super().__init__(root=root, **settings)
        check_objects(min_area, crowd)
        given: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self.images, self.min_area, self.crowd = images, min_area, crowd
        named = {split: self.root / os.path.expanduser(name) for split, name in given.items() if name}
        self.files: dict[Split, Path] = named or _find(self.root)
        own = self.files.get("train")
        if classes and set(self.files) - {"train"} and not (own and own.is_file()):
            self.test_only = True
            self.files.pop("train", None)
        elif own is None:
            raise MlclError(f"{self.root} has no training annotations; name their file with --data.train")
        for split, file in self.files.items():
            if not file.is_file():
                raise MlclError(f"{file} is missing: check --data.root and --data.{split}")
        tables = {split: read_table(file, min_area, crowd) for split, file in self.files.items()}
        if "train" in tables and not tables["train"].counts.any():
            raise MlclError(
                f"{self.files['train']} has no annotations, so no image has a label; labels of whole images belong "
                "into a table: --data CSVDataset"
            )
        self._tables = {split: self._without_groups(split, table, tables, classes) for split, table in tables.items()}
        known = list(dict.fromkeys(name for table in self._tables.values() for name in table.classes.tolist()))
        if self.test_only and classes:  # a class may be in the training's file only
            known += classes
        self.classes = chosen(classes, known, " and ".join(str(file) for file in self.files.values()))

    def portable_arguments(self) -> dict[str, Any]:
        """As in the base, with the classes: other files might lack some."""
        return {**super().portable_arguments(), "classes": list(self.classes)}

    def read_split(self, split: Split) -> Samples | None:
        """The images of the split's file."""
        if split not in self.files:
            return None
        table, file = self._tables[split], self.files[split]
        own = set(table.classes.tolist())
        listed = [name for name in self.classes if name in own]
        targets = np.full((len(table.file_names), self.num_classes), UNKNOWN, dtype=np.int8)
        targets[:, [self.classes.index(name) for name in listed]] = table.columns(listed)
        if lacking := [name for name in self.classes if name not in listed]:
            text = f"{split}: the categories of {file.name} lack {some(lacking)}, unknown in all of its images"
            self.notes[f"{split} categories"] = text
        self.notes |= note_unused(table, file, split)
        return Samples(self._paths(split, table.file_names.tolist()), targets)

    def read_regions(self, source: Split, paths: Sequence[Path]) -> Regions | None:
        """From the same annotation file: polygons, run lengths, or boxes."""
        every, options = lambda: self.read_split(source).paths, (self.min_area, self.crowd)  # type: ignore[union-attr]
        return of_coco(self.files[source], every, self.classes, paths, *options)

    def _without_groups(
        self, split: Split, table: Table, tables: dict[Split, Table], classes: Sequence[str] | None
    ) -> Table:
        """The table without the category that only groups the others."""
        names, above = table.classes.tolist(), table.supercategories.tolist()
        used = {
            (name, parent)
            for other in tables.values()
            for name, parent, count in zip(other.classes, other.supercategories, other.counts, strict=True)
            if count
        }
        groups = [
            k
            for k, (name, parent) in enumerate(zip(names, above, strict=True))
            if parent.lower() in ("", "none")
            and (name, parent) not in used
            and name in above[:k] + above[k + 1 :]
            and (names.count(name) > 1 or name not in (classes or ()))
        ]
        if groups:
            dropped = some([names[k] for k in groups])
            text = f"{self.files[split].name}: {dropped} only groups other categories and has no annotation: no class"
            self.notes[f"{split} groups"] = f"{split}: {text} (data.classes)"
        kept = [k for k in range(len(names)) if k not in groups]
        if twice := [name for name, times in Counter(names[k] for k in kept).items() if times > 1]:
            raise MlclError(f"{self.files[split]}: two categories are named {short(twice[0])!r}; rename or merge them")
        of_classes = table.classes[kept], table.supercategories[kept], table.counts[kept]
        return Table(*of_classes, table.file_names, table.targets[:, kept], table.unused)

    def _paths(self, split: Split, names: list[str]) -> list[Path]:
        """Each picture's path, all in the folder and with the spelling that finds most of them."""
        file = self.files[split]
        folders = [self.root / self.images] if self.images is not None else _folders(file, self.root)
        place = place_of(names, folders)
        if names and not place.found:
            places = short(", ".join(map(str, folders)))
            what = f"its pictures, such as {short(names[0])}, are not in {places}"
            raise MlclError(f"{file}: {what}; say with --data.images where they are")
        if place.by_name:
            text = f"{split}: the pictures of {file.name} are found in {place.folder} by name alone"
            self.notes[f"{split} names"] = text
        return [below(place.folder, name, self.root, str(file)) for name in place.names(names)]


def _find(root: Path) -> dict[Split, Path]:
    """The annotation file of each split, by the names that exporters give them."""
    found: dict[Split, list[Path]] = {}
    for file in sorted([*root.glob("*.json"), *root.glob("*/*.json")]):
        if split := _KNOWN.get(file.relative_to(root).as_posix().lower()):
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        if len(files) > 1:
            several = " and ".join(short(str(file)) for file in files[:2])
            raise MlclError(f"{several} may both be the {split} annotations; choose with --data.{split} FILE")
    if not found:
        raise MlclError(
            f"{root} holds no annotation file with a name that exporters give (train/_annotations.coco.json, "
            "annotations/instances_train.json, result.json, labels.json): check --data.root, or give --data.train FILE"
        )
    return {split: files[0] for split, files in found.items()}


def _folders(file: Path, root: Path) -> list[Path]:
    """Where exporters keep the pictures of an annotation file, none of them outside of ``root``."""
    own, above = file.parent, file.parent.parent
    subset = file.stem.removeprefix("instances_").removeprefix("labels_")
    folders = [own, own / "images", own / "data"]
    if own != root and root in own.parents:
        folders += [above / "images" / subset, above / subset, above / "images", above / "data"]
    return folders
