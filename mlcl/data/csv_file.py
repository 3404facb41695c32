"""Your own images: a folder and a CSV file."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mlcl.data.base import MultiLabelDataModule, Split
from mlcl.data.csv_rows import read_rows
from mlcl.data.dataset import Samples
from mlcl.data.file_names import checked, short
from mlcl.data.labels import ABSENT, PRESENT, UNKNOWN, Targets
from mlcl.errors import MlclError

_CODES = {"1": PRESENT, "0": ABSENT, "-1": UNKNOWN, "": UNKNOWN, "1.0": PRESENT, "0.0": ABSENT, "-1.0": UNKNOWN}
_NO_LABEL = 9


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
        self.image_column, self.labels_column, self.split_column = image_column, labels_column or None, split_column
        self.test_fraction = test_fraction
        self.files: dict[Split, str] = {"train": csv}
        self.files |= {"val": val_csv} if val_csv else {}
        self.files |= {"test": test_csv} if test_csv else {}
        self._read: dict[Split, Samples] = {}  # of each table
        if twice := [name for name, times in Counter(classes or ()).items() if times > 1]:
            raise MlclError(f"data.classes names {short(twice[0])!r} more than once")
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
        if table not in self._read:  # each split is asked for several times, and may be a part of one table
            header, rows = self._tables[table]
            file = self.root / self.files[table]
            paths = [self.root / row[header.index(self.image_column)].strip() for row in rows.values()]
            targets = self._named(header, rows, file) if self.labels_column else self._coded(header, rows, file)
            self._read[table] = Samples(paths, targets)
        return self._read[table].take(chosen)

    def _named(self, header: list[str], rows: dict[int, list[str]], file: Path) -> Targets:
        """(N, K) from a column of names."""
        column, place = header.index(str(self.labels_column)), {name: k for k, name in enumerate(self.classes)}
        targets = np.full((len(rows), self.num_classes), ABSENT, dtype=np.int8)
        for target, (number, row) in zip(targets, rows.items(), strict=True):
            names = _names(row[column])
            if names == {"-1"}:
                target[:] = UNKNOWN
                continue
            if unknown := names - place.keys():
                known = short(", ".join(self.classes[:12]))
                wrong = short(sorted(unknown)[0])
                raise MlclError(f"{file}, row {number}: unknown class {wrong!r}; known: {known}")
            target[[place[name] for name in names]] = PRESENT
        return targets

    def _coded(self, header: list[str], rows: dict[int, list[str]], file: Path) -> Targets:
        """(N, K) from a column per class; each is looked up once, as there may be thousands."""
        place = {name: column for column, name in enumerate(header)}
        if missing := [name for name in self.classes if name not in place]:
            raise MlclError(f"{file} has no column for the class {short(missing[0])!r}")
        columns = [place[name] for name in self.classes]
        targets = np.empty((len(rows), self.num_classes), dtype=np.int8)
        for target, (number, row) in zip(targets, rows.items(), strict=True):
            codes = [_CODES.get(row[column].strip(), _NO_LABEL) for column in columns]
            if _NO_LABEL in codes:
                wrong = codes.index(_NO_LABEL)
                raise MlclError(
                    f"{file}, row {number}: {short(row[columns[wrong]].strip())!r} in column "
                    f"{short(self.classes[wrong])!r} is no label; use 1, 0, -1 or nothing (or, for a column of names, "
                    "data.labels_column)"
                )
            target[:] = codes
        return targets


def _names(cell: str) -> set[str]:
    return {name.strip() for name in cell.split(";") if name.strip()}
