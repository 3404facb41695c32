"""Your own images: a folder and a CSV file."""

import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlcl.data import cells
from mlcl.data.base import MultiLabelDataModule
from mlcl.data.dataset import ImageDataset, Samples
from mlcl.data.file_names import checked, short
from mlcl.data.labels import ABSENT, PRESENT, UNKNOWN, Targets
from mlcl.data.options import one_of
from mlcl.data.places import as_written_or_found
from mlcl.data.splits import Split
from mlcl.data.table import Rows, read_rows
from mlcl.errors import MlclError

_ANNOTATION = "annotation_id"  # column of Label Studio's tables; a row without one is not annotated
_CODES = {"1": PRESENT, "0": ABSENT, "-1": UNKNOWN, "": UNKNOWN, "1.0": PRESENT, "0.0": ABSENT, "-1.0": UNKNOWN}


class CSVDataset(MultiLabelDataModule):
    """Pictures listed in a CSV file with a header line; commas, semicolons or tabs, UTF-8 or UTF-16.

    Labels are one column per class (1 present, 0 absent, -1 or empty unknown), or one column of names (every other
    class is absent; an empty cell is an image without a label, -1 an image with unknown labels). The names are
    separated by ``;``, or a JSON or Python list, or as Label Studio exports choices; there an empty cell is unknown,
    unless its ``annotation_id`` says that someone has annotated the image.
    The rows of one picture are put together: all of its names, or what is known of each class.
    Splits are given by a column (``train``, ``val``, ``test``), by a file each, or by fractions, which keep a picture,
    its copies and a group on one side.

    Args:
        csv: the table, relative to ``root``; with ``val_csv`` or ``test_csv`` it is the training split, which a test
            does without.
        root: folder that the paths in the table start from; by default the table's own. Paths may be absolute, and may
            lead out of the folder. Where none of a table's pictures is there, they are looked for beside the table,
            and by their names alone.
        image_column: column with the path of the picture.
        labels_column: column with names; by default every other column is a class.
        split_column: column with the split of the row, used if the table has it.
        val_csv: table of the validation split.
        test_csv: table of the test split.
        test_fraction: share of the rows held out as the test split, without a split column and ``test_csv``.
        classes: names of the classes in order; by default those found, columns in their order, names sorted.
        label_separator: what stands between two names in ``labels_column``; by default ``;``.
        empty_cells: what an empty cell of a label means, unknown or absent; by default see above.
        group_column: column with what images have in common (a patient, a video): no fraction divides a group.
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: for a missing file or column, an empty table, a value that is no label, or rows of a picture that
            contradict each other.
    """

    def __init__(
        self,
        csv: str = "labels.csv",
        root: str | None = None,
        image_column: str = "image",
        labels_column: str | None = None,
        split_column: str = "split",
        val_csv: str | None = None,
        test_csv: str | None = None,
        test_fraction: float = 0.0,
        classes: list[str] | None = None,
        label_separator: str = "",
        empty_cells: Literal["unknown", "absent"] | None = None,
        group_column: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root=str(Path(csv).parent) if root is None else root, **settings)
        csv = Path(csv).name if root is None else os.path.expanduser(csv)
        if not 0 <= test_fraction < 1:
            raise MlclError(f"data.test_fraction is {test_fraction}, it must lie in [0, 1)")
        one_of("empty_cells", empty_cells or "unknown", "unknown", "absent")
        self.image_column, self.labels_column, self.split_column = image_column, labels_column or None, split_column
        self.group_column, self.test_fraction, self.empty_cells = group_column or None, test_fraction, empty_cells
        if label_separator is None:  # as jsonargparse reads it; Python needs no quotes
            raise MlclError("data.label_separator: # and ~ are nothing in YAML; give them in Python")
        self.label_separator = label_separator.replace("\\t", "\t").replace("\\n", "\n")
        self.files: dict[Split, str] = {"train": csv}
        self.files |= {"val": os.path.expanduser(val_csv)} if val_csv else {}
        self.files |= {"test": os.path.expanduser(test_csv)} if test_csv else {}
        if twice := [name for name, times in Counter(classes or ()).items() if times > 1]:
            raise MlclError(f"data.classes names {short(twice[0])!r} more than once")
        self.test_only = bool(classes) and len(self.files) > 1 and not (self.root / csv).exists()
        needed: list[Split] = [split for split in self.files if split != "train" or not self.test_only]
        tables = {split: self._read_table(split) for split in needed}
        self._tells_annotated = empty_cells is None and any(_ANNOTATION in header for header, _ in tables.values())
        self._unlabelled_is_unknown = self.empty_cells == "unknown" or self._are_choices(tables)
        self._names = {split: self._read_names(split, *table) for split, table in tables.items()}
        self.classes = tuple(classes) if classes else self._find_classes(tables)
        if not self.classes:
            raise MlclError(f"{self.root / csv} names no class; give data.classes, or a column per class")
        self._split_of_row: NDArray[np.str_] | None = None
        self._samples = {split: self._labelled(split, *table) for split, table in tables.items()}
        self.notes |= cells.doubts(self.classes, bool(self.label_separator or classes))
        self._fractions: dict[Split, Samples] = {}

    def portable_arguments(self) -> dict[str, Any]:
        """As in the base, with the table relative to that root, and the classes: another table might lack some."""
        unknown = self.labels_column and self._unlabelled_is_unknown and not self._tells_annotated
        empty = {"empty_cells": "unknown"} if unknown else {}
        return {**super().portable_arguments(), "csv": self.files["train"], "classes": list(self.classes), **empty}

    def read_split(self, split: Split) -> Samples | None:
        """The rows of a split, by file, by column, or by fraction; a file counts in place of the column's rows."""
        if (split in self.files and split != "train") or self.test_only:
            return self._samples.get(split)
        samples = self._samples["train"]
        if self.test_fraction and (self._split_of_row is not None or len(self.files) > 1):
            raise MlclError("data.test_fraction is set, but the splits are given by a column or by files")
        if self._split_of_row is not None:
            return samples.take(self._split_of_row == split) if split in self._split_of_row else None
        if len(self.files) > 1:
            return samples if split == "train" else None
        if not self._fractions:
            self._fractions["train"], self._fractions["test"] = samples.hold_out(self.test_fraction, self.split_seed)
        return self._fractions.get(split) if split == "train" or self.test_fraction else None

    def dataset(self, split: Split, augmented: bool = True) -> ImageDataset:
        """See the base; without a training table there is no training."""
        if split == "train" and self.test_only:
            raise MlclError(f"{self.root / self.files['train']} cannot be read: no such file (data.csv)")
        return super().dataset(split, augmented)

    def _read_table(self, split: Split) -> tuple[list[str], Rows]:
        """Header, and rows of the same length by their number in the file."""
        file = self.root / self.files[split]
        rows = read_rows(file, self.image_column, "data.csv" if split == "train" else f"data.{split}_csv")
        if len(rows) < 2:
            raise MlclError(f"{file} is empty: it needs a header line and a row per image")
        header = [name.strip() for name in rows.pop(min(rows))]
        while header[-1] == "" and all(row[len(header) - 1 :] in ([], [""]) for row in rows.values()):
            header.pop()  # spreadsheets write empty columns
            rows = {number: row[: len(header)] for number, row in rows.items()}
        if twice := sorted({name for name in header if name and header.count(name) > 1}):
            raise MlclError(f"{file} has two columns {short(twice[0])!r}")
        group = self.group_column if split == "train" else None  # only its rows are divided
        for column in filter(None, (self.image_column, self.labels_column, group)):
            if column not in header:
                raise MlclError(f"{file} has no column {column!r}; its columns are {short(', '.join(header[:12]))}")
        for number, row in rows.items():
            if len(row) != len(header):
                raise MlclError(f"{file}, row {number}: {len(row)} cells, the header has {len(header)}")
            checked(row[header.index(self.image_column)].strip(), f"{file}, row {number}, column {self.image_column}")
        return header, rows

    def _find_classes(self, tables: dict[Split, tuple[list[str], Rows]]) -> tuple[str, ...]:
        header, _ = tables["train"]
        if self.labels_column is None:
            if "" in header:
                raise MlclError(
                    f"{self.root / self.files['train']}: column {header.index('') + 1} has no name, so it is no class; "
                    "name it, drop it (pandas: to_csv(index=False)), or give data.classes"
                )
            others = self.image_column, self.split_column, self.group_column
            return tuple(name for name in header if name not in others)
        names = {name for rows in self._names.values() for row in rows for name in row} - {"-1"}
        try:
            cells.check_names(names, bool(self.label_separator))
        except MlclError as error:
            raise MlclError(f"{self.root / self.files['train']}, column {self.labels_column}: {error}") from None
        return tuple(sorted(names))

    def _read_names(self, split: Split, header: list[str], rows: Rows) -> list[set[str]]:
        """The names of each row, none of them where the labels have a column per class."""
        if self.labels_column is None:
            return []
        column, found = header.index(self.labels_column), []
        annotation = header.index(_ANNOTATION) if self._tells_annotated and _ANNOTATION in header else None
        for number, row in rows.items():
            try:
                names = cells.names_in(row[column], self.label_separator or cells.SEPARATOR)
            except MlclError as error:
                place = f"{self.root / self.files[split]}, row {number}, column {self.labels_column}"
                raise MlclError(f"{place}: {error}") from None
            annotated = annotation is not None and row[annotation].strip()
            unknown = self._unlabelled_is_unknown and not row[column].strip() and not annotated
            found.append({"-1"} if unknown else names)
        return found

    def _are_choices(self, tables: dict[Split, tuple[list[str], Rows]]) -> bool:
        """Whether one of the tables is Label Studio's, where an empty cell may mean that nobody has annotated it."""
        if self.labels_column is None or self.empty_cells is not None:
            return False
        if self._tells_annotated:
            return True
        pairs = ((header.index(self.labels_column), rows) for header, rows in tables.values())
        return any(cells.is_choices(row[column]) for column, rows in pairs for row in rows.values())

    def _labelled(self, split: Split, header: list[str], rows: Rows) -> Samples:
        """The pictures of a table, each once."""
        file, numbers = self.root / self.files[split], list(rows)
        names = [row[header.index(self.image_column)].strip() for row in rows.values()]
        paths, elsewhere = as_written_or_found(self.root, names, [file.parent, self.root / "images"])
        self.notes |= {f"{file.name} pictures": f"{file.name}: its {elsewhere}"} if elsewhere else {}
        targets = self._named(split, rows, file) if self.labels_column else self._coded(header, rows, file)
        parts = self._split_names(header, rows, file)
        if parts is not None and split != "train":
            if other := set(parts) - {split}:
                raise MlclError(f"{file}: column {self.split_column} names {min(other)}, but this is the {split} table")
            parts = None
        groups = self._groups(header, rows, file)
        same: dict[tuple[str, str], list[int]] = {}  # a picture in two splits is warned of later
        for place, path in enumerate(paths):
            same.setdefault((os.path.abspath(path), parts[place] if parts else ""), []).append(place)
        for places in same.values():
            if len(places) > 1:
                where = f"{file}, rows {_rows(numbers, places)}: the same picture"
                targets[places[0]] = self._merged(targets[places], where)
                if groups is not None and len({groups[place] for place in places}) > 1:
                    raise MlclError(f"{where} in several groups (column {self.group_column})")
        firsts = [places[0] for places in same.values()]
        if len(firsts) < len(paths):
            counts = f"{len(paths):,} rows are {len(firsts):,} pictures"
            self.notes[file.name] = f"{file.name}: {counts}; the rows of a picture are merged"
        self._split_of_row = self._split_of_row if parts is None else np.array([parts[place] for place in firsts])
        return Samples(paths, targets, groups).take(firsts)

    def _merged(self, rows: Targets, place: str) -> Targets:
        """(K,) from the (n, K) rows of one picture: what one of them knows."""
        merged: Targets = rows.max(0)  # present before absent before unknown
        if self.labels_column:
            if (rows == ABSENT).all(1).any() and (merged == PRESENT).any():
                raise MlclError(f"{place}, with names in one row and an empty cell, which means none, in another")
        elif (wrong := ((rows == PRESENT).any(0) & (rows == ABSENT).any(0)).nonzero()[0]).size:
            name = short(self.classes[wrong[0]])
            raise MlclError(f"{place}, but {name!r} is 1 in one row and 0 in another")
        return merged

    def _groups(self, header: list[str], rows: Rows, file: Path) -> list[str] | None:
        if self.group_column is None or self.group_column not in header:
            return None
        column = header.index(self.group_column)
        if empty := [number for number, row in rows.items() if not row[column].strip()]:
            raise MlclError(f"{file}, row {empty[0]}: no group in column {self.group_column}")
        return [row[column].strip() for row in rows.values()]

    def _split_names(self, header: list[str], rows: Rows, file: Path) -> list[str] | None:
        """train, val or test of each row; None if there is no such column."""
        if self.split_column not in header:
            return None
        named = [row[header.index(self.split_column)].strip().lower() for row in rows.values()]
        if unknown := set(named) - {"train", "val", "test"}:
            held = short(min(unknown))
            raise MlclError(f"{file}: column {self.split_column} holds {held!r}; use train, val or test")
        return named

    def _named(self, split: Split, rows: Rows, file: Path) -> Targets:
        """(N, K) from a column of names."""
        place = {name: k for k, name in enumerate(self.classes)}
        targets = np.full((len(rows), self.num_classes), ABSENT, dtype=np.int8)
        for target, number, names in zip(targets, rows, self._names[split], strict=True):
            if names == {"-1"}:
                target[:] = UNKNOWN
            elif unknown := names - place.keys():
                known = short(", ".join(self.classes[:12]))
                hint = cells.hint(min(unknown), place)
                raise MlclError(f"{file}, row {number}: unknown class {short(min(unknown))!r}; known: {known}{hint}")
            else:
                target[[place[name] for name in names]] = PRESENT
        return targets

    def _coded(self, header: list[str], rows: Rows, file: Path) -> Targets:
        """(N, K) from a column per class; the columns are found once, as there may be thousands."""
        place = {name: column for column, name in enumerate(header)}
        if missing := [name for name in self.classes if name not in place]:
            raise MlclError(f"{file} has no column for the class {short(missing[0])!r}")
        columns = [place[name] for name in self.classes]
        codes = {**_CODES, "": ABSENT} if self.empty_cells == "absent" else _CODES
        targets = np.empty((len(rows), self.num_classes), dtype=np.int8)
        for target, (number, row) in zip(targets, rows.items(), strict=True):
            texts = [row[column].strip() for column in columns]
            try:
                target[:] = [codes[cell] for cell in texts]
            except KeyError as error:
                wrong, name = error.args[0], self.classes[texts.index(error.args[0])]
                raise MlclError(
                    f"{file}, row {number}: {short(wrong)!r} in column {short(name)!r} is no label; use 1, 0, "
                    "-1 or nothing (or, for a column of names, data.labels_column)"
                ) from None
        return targets


def _rows(numbers: list[int], places: list[int]) -> str:
    """The first few row numbers of a picture."""
    shown = [str(numbers[place]) for place in places[:4]]
    return " and ".join(shown) if len(places) <= 4 else f"{', '.join(shown)}, ..."
