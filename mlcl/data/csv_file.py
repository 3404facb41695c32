"""Your own images: a folder and a CSV file."""

from pathlib import Path
from typing import Any

import numpy as np

from mlcl.data.base import MultiLabelDataModule, Split
from mlcl.data.dataset import Samples
from mlcl.data.labels import ABSENT, PRESENT, UNKNOWN
from mlcl.data.names import checked, short
from mlcl.data.table import read_rows
from mlcl.errors import MlclError

_CODES = {"1": PRESENT, "0": ABSENT, "-1": UNKNOWN, "": UNKNOWN, "1.0": PRESENT, "0.0": ABSENT, "-1.0": UNKNOWN}


class CSVDataset(MultiLabelDataModule):
    """Pictures listed in a CSV file with a header line; commas, semicolons or tabs, UTF-8 or UTF-16.

    Labels come as one column per class (1 present, 0 absent, -1 or empty unknown), or as one column of names
    separated by ``;`` (then every other class is absent; an empty cell is an image without a label, -1 one whose
    labels are unknown).
    Splits come from a column (``train``, ``val``, ``test``), from a file each, or from fractions.

    Args:
        csv: the table, relative to ``root``; with ``val_csv`` or ``test_csv`` it is the training split.
        root: folder that the paths in the table start from; by default the table's own. The table is yours: its paths
            may be absolute, and may leave the folder.
        image_column: column with the path of the picture.
        labels_column: column with ``;``-separated names; by default every other column is a class.
        split_column: column with the split of the row, used if the table has it.
        val_csv: table of the validation split.
        test_csv: table of the test split.
        test_fraction: share of the rows carved out as the test split, where nothing else says which.
        classes: names of the classes in order; by default those found, columns in their order, names sorted.
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: for a missing file or column, an empty table, or a value that is no label; with the line.
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
        **settings: Any,
    ) -> None:
        super().__init__(root=str(Path(csv).parent) if root is None else root, **settings)
        csv = Path(csv).name if root is None else csv
        if not 0 <= test_fraction < 1:
            raise MlclError(f"data.test_fraction is {test_fraction}, it must lie in [0, 1)")
        self.image_column, self.labels_column, self.split_column = image_column, labels_column, split_column
        self.test_fraction = test_fraction
        self.files: dict[Split, str] = {"train": csv}
        self.files |= {"val": val_csv} if val_csv else {}
        self.files |= {"test": test_csv} if test_csv else {}
        self._tables = {split: self._read_table(self.root / name) for split, name in self.files.items()}
        self.classes = tuple(classes) if classes else self._find_classes()
        if not self.classes:
            raise MlclError(f"{self.root / csv} names no class; give data.classes, or a column per class")

    def portable_arguments(self) -> dict[str, Any]:
        """As in the base; the table by its place under that root, and the classes: another might not show all."""
        return {**super().portable_arguments(), "csv": self.files["train"], "classes": list(self.classes)}

    def read_split(self, split: Split) -> Samples | None:
        """The rows of a split, by file, by column, or by fraction."""
        if len(self.files) > 1:
            return self._samples(split, slice(None)) if split in self.files else None
        header, rows = self._tables["train"]
        if self.split_column in header:
            named = np.array([row[header.index(self.split_column)].strip().lower() for row in rows.values()])
            if unknown := set(named) - {"train", "val", "test"}:
                raise MlclError(
                    f"{self.root / self.files['train']}: column {self.split_column} holds "
                    f"{short(sorted(unknown)[0])!r}; use train, val or test"
                )
            return self._samples("train", named == split) if (named == split).any() else None
        order = np.random.default_rng(self.split_seed).permutation(len(rows))
        in_test = np.zeros(len(rows), dtype=bool)
        in_test[order[: round(self.test_fraction * len(rows))]] = True
        chosen: dict[Split, Any] = {"train": ~in_test, "test": in_test if in_test.any() else None}
        return None if chosen.get(split) is None else self._samples("train", chosen[split])

    def _read_table(self, file: Path) -> tuple[list[str], dict[int, list[str]]]:
        """Header and rows by their number in the file, each as long as the header; blank ones are left out."""
        rows = read_rows(file, self.image_column)
        if len(rows) < 2:
            raise MlclError(f"{file} is empty: it needs a header line and a row per image")
        header = [name.strip() for name in rows.pop(min(rows))]
        while header[-1] == "" and all(row[len(header) - 1 :] in ([], [""]) for row in rows.values()):
            header.pop()  # spreadsheets write columns that hold nothing
            rows = {number: row[: len(header)] for number, row in rows.items()}
        if twice := sorted({name for name in header if name and header.count(name) > 1}):
            raise MlclError(f"{file} has two columns {short(twice[0])!r}")
        for column in filter(None, (self.image_column, self.labels_column)):
            if column not in header:
                raise MlclError(f"{file} has no column {column!r}; its columns are {short(', '.join(header[:12]))}")
        for number, row in rows.items():
            if len(row) != len(header):
                raise MlclError(f"{file}, row {number}: {len(row)} cells, the header has {len(header)}")
            if not (name := row[header.index(self.image_column)].strip()):
                raise MlclError(f"{file}, row {number}: no picture in column {self.image_column!r}")
            checked(name, f"{file}, row {number}")
        return header, rows

    def _find_classes(self) -> tuple[str, ...]:
        header, _ = self._tables["train"]
        if self.labels_column is None:
            if "" in header:
                raise MlclError(
                    f"{self.root / self.files['train']}: column {header.index('') + 1} has no name, so it is no class; "
                    "name it, drop it (pandas: to_csv(index=False)), or give data.classes"
                )
            return tuple(name for name in header if name not in (self.image_column, self.split_column))
        column = self.labels_column
        cells = (row[head.index(column)] for head, rows in self._tables.values() for row in rows.values())
        return tuple(sorted({name for cell in cells for name in _names(cell)} - {"-1"}))

    def _samples(self, table: Split, chosen: Any) -> Samples:
        header, rows = self._tables[table]
        file = self.root / self.files[table]
        paths = [self.root / row[header.index(self.image_column)].strip() for row in rows.values()]
        targets = [self._target(header, row, f"{file}, row {number}") for number, row in rows.items()]
        return Samples(paths, np.array(targets, dtype=np.int8).reshape(-1, self.num_classes)).take(chosen)

    def _target(self, header: list[str], row: list[str], place: str) -> list[int]:
        if self.labels_column is not None:
            names = _names(row[header.index(self.labels_column)])
            if names == {"-1"}:
                return [UNKNOWN] * self.num_classes
            if unknown := names - set(self.classes):
                known = short(", ".join(self.classes[:12]))
                raise MlclError(f"{place}: unknown class {short(sorted(unknown)[0])!r}; known: {known}")
            return [PRESENT if name in names else ABSENT for name in self.classes]
        target = []
        for name in self.classes:
            if name not in header:
                raise MlclError(f"{place.split(', row')[0]} has no column for the class {short(name)!r}")
            value = row[header.index(name)].strip()
            if value not in _CODES:
                raise MlclError(
                    f"{place}: {short(value)!r} in column {short(name)!r} is no label; use 1, 0, -1 or nothing "
                    "(or, for a column of names, data.labels_column)"
                )
            target.append(_CODES[value])
        return target


def _names(cell: str) -> set[str]:
    return {name.strip() for name in cell.split(";") if name.strip()}
