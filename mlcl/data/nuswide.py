"""NUS-WIDE (Chua et al., CIVR 2009): 81 concepts of Flickr photos, from the original files or from ASL's table."""

import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.cells import names_in
from mlcl.data.dataset import Samples
from mlcl.data.file_names import below, checked, short
from mlcl.data.images import ImageError, exist
from mlcl.data.labels import ABSENT, PRESENT, UNKNOWN, Targets, encode
from mlcl.data.options import one_of
from mlcl.data.splits import Split
from mlcl.data.table import read_rows
from mlcl.errors import MlclError

# As in Concepts81.txt.
NUSWIDE_CLASSES = tuple(
    """airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds computer coral cow
    dancing dog earthquake elk fire fish flags flowers food fox frost garden glacier grass harbor horses house lake leaf
    map military moon mountain nighttime ocean person plane plants police protest railroad rainbow reflection road rocks
    running sand sign sky snow soccer sports statue street sun sunset surf swimmers tattoo temple tiger tower town toy
    train tree valley vehicle water waterfall wedding whales window zebra""".split()
)
_TABLES = ("nus_wid_data.csv", "nus_wide_data.csv")
_IMAGES = ("Flickr", "images", "")  # folders below root
_SETS: dict[Split, str] = {"train": "Train", "test": "Test"}  # of the original files
_PARTS: dict[Split, str] = {"train": "train", "test": "val"}  # of the table
_FAULT = "-1130179"  # line 78,372 of the published Labels_lake_Train.txt
_CODES = {b"1": PRESENT, b"0": ABSENT, _FAULT.encode(): UNKNOWN}


class NUSWIDE(MultiLabelDataModule):
    """NUS-WIDE with 81 concepts, by one of three protocols; numbers of different protocols cannot be compared.

    ``root`` holds the original files (``ImageList/{Train,Test}Imagelist.txt`` and
    ``Groundtruth/TrainTestLabels/Labels_<concept>_{Train,Test}.txt``, line i of which is image i of the list), or ASL's
    table, ``nus_wid_data.csv`` (a path, a list of names, ``train`` or ``val``); and the photos in ``Flickr/`` or
    ``images/``. An image is its path: ids occur twice, and the list of addresses has another order.

    Args:
        labels: read the ``original`` files or the ``csv``; by default the one that is there.
        protocol: ``official`` (161,789 / 107,859 images), ``labelled`` (those with a label, 125,449 / 83,898, the
            default) or ``csv`` (those of ASL's table, 119,103 / 50,720).
        images: all that are ``listed``, or those ``present``, since many photos are gone from Flickr; what is missing
            is counted, and the counts then fit no published table.
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: for a missing or wrong file, lists and labels of different lengths, an unknown concept, an image
            that is listed twice.
    """

    classes = NUSWIDE_CLASSES

    def __init__(
        self,
        root: str = "data/nuswide",
        labels: Literal["original", "csv"] | None = None,
        protocol: Literal["official", "labelled", "csv"] | None = None,
        images: Literal["listed", "present"] = "listed",
        **settings: Any,
    ) -> None:
        super().__init__(root=root, **settings)
        one_of("labels", labels or "csv", "original", "csv")
        one_of("protocol", protocol or "csv", "official", "labelled", "csv")
        one_of("images", images, "listed", "present")
        self.labels, self.protocol, self.images = labels, protocol, images
        self._read: dict[Split, Samples] = {}

    def prepare_data(self) -> None:
        """Check that the images are there."""
        try:
            super().prepare_data()
        except ImageError as error:
            raise ImageError(f"{error}, or leave out what is missing with --data.images present") from None

    def read_split(self, split: Split) -> Samples | None:
        """``train`` and ``test``, the table's ``val``; there is no validation split of its own."""
        if split not in _SETS:
            return None
        if split not in self._read:
            read = {split: self._original(split)} if self._source() == "original" else self._table()
            self._read |= {part: self._present(part, samples) for part, samples in read.items()}
        return self._read[split]

    def _source(self) -> str:
        """Which of the two readers, from the options and from what is there."""
        tables = [name for name in _TABLES if (self.root / name).is_file()]
        there = ["original"] * (self.root / "ImageList").is_dir() + ["csv"] * bool(tables)
        wanted = self.labels or (self.protocol and ("csv" if self.protocol == "csv" else "original"))
        if not wanted and len(there) == 2:
            raise MlclError(f"{self.root} holds ImageList/ and {tables[0]}: give --data.labels original or csv")
        if not there or (wanted and wanted not in there):
            needed = {"original": "ImageList/ and Groundtruth/TrainTestLabels/", "csv": " or ".join(_TABLES)}
            missing = needed[wanted] if wanted else f"{needed['original']}, or {needed['csv']}"
            raise MlclError(f"{self.root} is missing {missing}: give --data.root the folder of NUS-WIDE")
        source = wanted or there[0]
        if self.protocol and (self.protocol == "csv") != (source == "csv"):
            raise MlclError(f"data.protocol {self.protocol} is not that of the {source} labels (data.labels)")
        return source

    def _original(self, split: Split) -> Samples:
        """From the list of a set and a file of 0 and 1 for each concept."""
        self._check_concepts()
        listing = self.root / "ImageList" / f"{_SETS[split]}Imagelist.txt"
        names = _lines(listing)
        targets = np.empty((len(names), len(self.classes)), dtype=np.int8)
        for k, concept in enumerate(self.classes):
            file = self.root / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{_SETS[split]}.txt"
            targets[:, k] = _column(file, len(names), listing)
        if faults := int((targets == UNKNOWN).sum()):
            here = f"{faults} labels are {_FAULT} in the published files"
            self.notes[split] = f"{split}: {here}; these are unknown"
        samples = Samples(self._paths(names, listing), targets)
        return samples if self.protocol == "official" else samples.take((targets == PRESENT).any(1))

    def _check_concepts(self) -> None:
        for file in (self.root / "ConceptsList" / "Concepts81.txt", self.root / "Concepts81.txt"):
            if file.is_file() and (differ := set(_lines(file)) ^ set(self.classes)):
                raise MlclError(f"{file} does not list the 81 concepts of NUS-WIDE; different: {short(min(differ))}")

    def _table(self) -> dict[Split, Samples]:
        """From ASL's table: beside the column ``label`` the path on its left and the split on its right."""
        file = next(self.root / name for name in _TABLES if (self.root / name).is_file())
        rows = read_rows(file, "label", "data.root")
        header = [cell.strip() for cell in rows.pop(min(rows))] if rows else []
        if "label" not in header[1:-1]:
            raise MlclError(f"{file}: the header must be a path, label and a split, not {short(', '.join(header))}")
        column, place = header.index("label"), {name: k for k, name in enumerate(self.classes)}
        names: dict[str, list[str]] = {part: [] for part in _PARTS.values()}
        present: dict[str, list[list[int]]] = {part: [] for part in _PARTS.values()}
        read: dict[str, list[int]] = {}  # most cells are the same combinations of concepts
        for number, row in rows.items():
            if len(row) != len(header):
                raise MlclError(f"{file}, row {number}: {len(row)} cells, the header has {len(header)}")
            if (part := row[column + 1].strip()) not in names:
                raise MlclError(f"{file}, row {number}: the split is {short(part)!r}, it must be train or val")
            if (cell := row[column]) not in read:
                try:
                    concepts = names_in(cell, ",")
                except MlclError as error:
                    raise MlclError(f"{file}, row {number}: {error}") from None
                if unknown := concepts - place.keys():
                    raise MlclError(f"{file}, row {number}: {short(min(unknown))!r} is no concept of NUS-WIDE")
                read[cell] = [place[name] for name in concepts]
            names[part].append(row[column - 1].strip())
            present[part].append(read[cell])
        return {
            split: Samples(self._paths(names[part], file), encode(present[part], len(self.classes)))
            for split, part in _PARTS.items()
        }

    def _paths(self, names: list[str], listing: Path) -> list[Path]:
        """The photos, in the first of the folders that holds any of the first thousand."""
        names = [checked(name.replace("\\", "/"), str(listing)) for name in names]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise MlclError(f"{listing} lists {short(twice[0])} twice")
        folders = [self.root / folder for folder in _IMAGES if (self.root / folder).is_dir()]
        with_some = (folder for folder in folders if any(os.path.exists(folder / name) for name in names[:1000]))
        folder = next(with_some, self.root / _IMAGES[0])
        return [below(folder, name, self.root, str(listing)) for name in names]

    def _present(self, split: Split, samples: Samples) -> Samples:
        """The samples whose photos exist, if these are wanted."""
        if self.images == "listed":
            return samples
        there = np.array(exist(samples.paths), dtype=bool)
        if missing := int((~there).sum()):
            counts = f"{missing:,} of {len(there):,} listed images are missing and left out (data.images present)"
            self.notes[f"{split} images"] = f"{split}: {counts}"
        return samples.take(there)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise MlclError(f"{file} cannot be read: {error.strerror}; give --data.root the folder of NUS-WIDE") from None


def _lines(file: Path) -> list[str]:
    """The lines that are not blank, without spaces and line ends."""
    lines = (line.strip() for line in _content(file).decode(errors="surrogateescape").splitlines())
    return [line for line in lines if line]


def _column(file: Path, count: int, listing: Path) -> Targets:
    """(count,) int8 in {1, 0, -1}, the labels of a concept."""
    values = np.array(_content(file).split(), dtype=bytes)
    if len(values) != count:
        raise MlclError(f"{file} has {len(values):,} labels, but {listing} has {count:,} images")
    column = np.select([values == text for text in _CODES], list(_CODES.values()), 2).astype(np.int8)
    if (wrong := (column == 2).nonzero()[0]).size:
        value = short(values[wrong[0]].decode(errors="backslashreplace"))
        raise MlclError(f"{file}, label {wrong[0] + 1:,}: {value} is neither 0 nor 1")
    return column
