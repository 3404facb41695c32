"""LVIS, whose images are each annotated for some of its categories only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.coco_file import Content, Entry, number, selected
from mlcl.data.coco_labels import Table, check_objects, chosen, note_unused, read_table
from mlcl.data.dataset import Samples
from mlcl.data.file_names import below, checked, short
from mlcl.data.labels import ABSENT, PRESENT, UNKNOWN, Targets
from mlcl.data.options import one_of
from mlcl.data.regions import Regions, of_coco
from mlcl.data.splits import Split
from mlcl.errors import MlclError

_PARTS: dict[Split, str] = {"train": "train", "test": "val"}


class LVIS(MultiLabelDataModule):
    """LVIS (arXiv 1908.03195): the pictures of COCO 2017 with about 1,200 categories, train and, as the test, val.

    v1 has 1,203 categories, 100,170 and 19,809 images; v0.5 has 1,230. An image was annotated for a few of the
    categories (its federation): those with an object are present, those in its ``neg_category_ids`` absent, and all
    others unknown. Not all objects of a category in ``not_exhaustive_category_ids`` are marked; it is present.

    ``root`` holds ``lvis_v1_{train,val}.json`` (or ``lvis_v0.5_...``), also in ``annotations/``, and ``train2017/`` and
    ``val2017/``. An image's ``coco_url`` says which: the val of v1 has pictures of both. An image without one is
    ``<part>2017/<file_name>``, where ``COCO_val2014_000000000042.jpg`` is ``000000000042.jpg``.

    Args:
        root: folder of the dataset.
        version: v1 or v0.5.
        classes: some of the categories, or all in another order.
        min_area: smaller objects are ignored; a class with none but these is unknown. Pixels of the original picture.
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: for a missing file, one without ``neg_category_ids``, or a category that is annotated in an image and
            among those it lacks.
    """

    def __init__(
        self,
        root: str = "data/lvis",
        version: Literal["v1", "v0.5"] = "v1",
        classes: list[str] | None = None,
        min_area: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(root=root, **settings)
        one_of("version", version, "v1", "v0.5")
        check_objects(min_area, "keep")
        self.version, self.min_area = version, min_area
        own = self._annotations("train")
        self.test_only = bool(classes) and not own.is_file() and self._annotations("test").is_file()
        known = self._table("test" if self.test_only else "train").classes.tolist()
        self.classes = chosen(classes, known, f"LVIS {version}")

    def portable_arguments(self) -> dict[str, Any]:
        """As in the base, with the classes, so that a test needs no training file."""
        return {**super().portable_arguments(), "classes": list(self.classes)}

    def read_split(self, split: Split) -> Samples | None:
        """``train``, and val as ``test``; there is no validation split of its own."""
        if split not in _PARTS or (split == "train" and self.test_only):
            return None
        table, file = self._table(split), self._annotations(split)
        if missing := set(self.classes) - set(table.classes.tolist()):
            raise MlclError(f"{file} has no category {short(min(missing))!r}, which is one of the classes")
        self.notes |= note_unused(table, file, split)
        paths = [below(self.root, name, self.root, str(file)) for name in table.file_names.tolist()]
        return Samples(paths, table.columns(self.classes))

    def read_regions(self, source: Split, paths: Sequence[Path]) -> Regions | None:
        """From the same annotation file: polygons, run lengths, or boxes."""
        every, options = lambda: self.read_split(source).paths, (self.min_area, "keep")  # type: ignore[union-attr]
        return of_coco(self._annotations(source), every, self.classes, paths, *options)

    def _annotations(self, split: Split) -> Path:
        name = f"lvis_{self.version}_{_PARTS[split]}.json"
        return self.root / name if (self.root / name).is_file() else self.root / "annotations" / name

    def _table(self, split: Split) -> Table:
        file = self._annotations(split)
        if not file.is_file():
            raise MlclError(f"{file} is missing: give --data.root the folder that holds it, or its annotations/")
        return read_table(file, self.min_area, "keep", federated)


def federated(content: Content, min_area: float, crowd: str) -> tuple[list[str], Targets]:
    """N names and (N, K) targets of ``lvis_*_<part>.json``: 1 where an object counts, 0 if negative, else -1."""
    part, names = content.file.stem.rpartition("_")[2], []
    targets = np.full((len(content.images), len(content.categories)), UNKNOWN, dtype=np.int8)
    annotated = {(row, column) for row, column, _ in selected(content, content.names)}
    for row, image in enumerate(content.images):
        place, absent = f"{content.file}: image {short(repr(image['id']))}", image.get("neg_category_ids")
        if not isinstance(absent, list):
            raise MlclError(f"{place} has no list neg_category_ids, so this is not LVIS; read it with --data COCOJSON")
        for id in absent:
            column = content.columns.get(number(id)) if isinstance(id, int | float | str) else None
            if column is None:
                raise MlclError(f"{place}: category {short(repr(id))} of neg_category_ids is unknown")
            if (row, column) in annotated:
                name = short(content.names[column])
                raise MlclError(f"{place}: {name!r} is annotated and also in neg_category_ids; correct one of them")
            targets[row, column] = ABSENT
        names.append(path_of(image, part, place))
    for row, column, _ in selected(content, content.names, min_area, crowd):
        targets[row, column] = PRESENT
    return names, targets


def path_of(image: Entry, part: str, place: str) -> str:
    """Where an image lies below the root: as in its ``coco_url``, else by its name, in the folder of its part."""
    url, name = image.get("coco_url"), image["file_name"]
    if isinstance(url, str):
        return checked("/".join(url.split("/")[-2:]), place)
    if "/" in name:
        return str(name)
    return f"{part}2017/{name.rpartition('_')[2] if name.startswith('COCO_') else name}"
