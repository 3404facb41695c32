"""Your own images: a folder and a CSV file."""

import codecs
import csv as csv_reader
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcl.data.base import MultiLabelDataModule, Split
from mlcl.data.dataset import Samples
from mlcl.data.file_names import checked, short
from mlcl.data.labels import ABSENT, PRESENT, UNKNOWN, Targets
from mlcl.errors import MlclError

Rows = dict[int, list[str]]  # by their number in the file, from 1
_CODES = {"1": PRESENT, "0": ABSENT, "-1": UNKNOWN, "": UNKNOWN, "1.0": PRESENT, "0.0": ABSENT, "-1.0": UNKNOWN}


class CSVDataset(MultiLabelDataModule):
    """Pictures listed in a CSV file with a header line; commas, semicolons or tabs, UTF-8 or UTF-16.

    Labels are one column per class (1 present, 0 absent, -1 or empty unknown), or one column of names separated by
    ``;`` (every other class is absent; an empty cell is an image without a label, -1 an image with unknown labels).
    Splits are given by a column (``train``, ``val``, ``test``), by a file each, or by fractions.

    Args:
        csv: the table, relative to ``root``; with ``val_csv`` or ``test_csv`` it is the training split.
        root: folder that the paths in the table start from; by default the table's own. Paths may be absolute, and may
            lead out of the folder.
        image_column: column with the path of the picture.
        labels_column: column with ``;``-separated names; by default every other column is a class.
        split_column: column with the split of the row, used if the table has it.
        val_csv: table of the validation split.
        test_csv: table of the test split.
        test_fraction: share of the rows held out as the test split, without a split column and ``test_csv``.
        classes: names of the classes in order; by default those found, columns in their order, names sorted.
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: for a missing file or column, an empty table, or a value that is no label.
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
        if twice := [name for name, times in Counter(classes or ()).items() if times > 1]:
            raise MlclError(f"data.classes names {short(twice[0])!r} more than once")
        tables = {split: self._read_table(self.root / name) for split, name in self.files.items()}
        self.classes = tuple(classes) if classes else self._find_classes(tables)
        if not self.classes:
            raise MlclError(f"{self.root / csv} names no class; give data.classes, or a column per class")
        self._samples = {split: self._labelled(split, *table) for split, table in tables.items()}
        self._split_of_row = self._read_split_column(*tables["train"])

    def portable_arguments(self) -> dict[str, Any]:
        """As in the base, with the table relative to that root, and the classes: another table might lack some."""
        return {**super().portable_arguments(), "csv": self.files["train"], "classes": list(self.classes)}

    def read_split(self, split: Split) -> Samples | None:
        """The rows of a split, by file, by column, or by fraction."""
        if len(self.files) > 1:
            return self._samples.get(split)
        samples = self._samples["train"]
        if self._split_of_row is not None:
            return samples.take(self._split_of_row == split) if split in self._split_of_row else None
        train, test = samples.hold_out(self.test_fraction, self.split_seed)
        if split == "train":
            return train
        return test if split == "test" and test.paths else None

    def _read_table(self, file: Path) -> tuple[list[str], Rows]:
        """Header, and rows of the same length by their number in the file."""
        rows = _read_rows(file, self.image_column)
        if len(rows) < 2:
            raise MlclError(f"{file} is empty: it needs a header line and a row per image")
        header = [name.strip() for name in rows.pop(min(rows))]
        while header[-1] == "" and all(row[len(header) - 1 :] in ([], [""]) for row in rows.values()):
            header.pop()  # spreadsheets write empty columns
            rows = {number: row[: len(header)] for number, row in rows.items()}
        if twice := sorted({name for name in header if name and header.count(name) > 1}):
            raise MlclError(f"{file} has two columns {short(twice[0])!r}")
        for column in filter(None, (self.image_column, self.labels_column)):
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
            return tuple(name for name in header if name not in (self.image_column, self.split_column))
        column = self.labels_column
        cells = (row[head.index(column)] for head, rows in tables.values() for row in rows.values())
        return tuple(sorted({name for cell in cells for name in _names(cell)} - {"-1"}))

    def _read_split_column(self, header: list[str], rows: Rows) -> NDArray[np.str_] | None:
        """(N,) train, val or test; None if there is no such column, or each split has its own file."""
        if self.split_column not in header or len(self.files) > 1:
            return None
        named = np.array([row[header.index(self.split_column)].strip().lower() for row in rows.values()])
        if unknown := set(named.tolist()) - {"train", "val", "test"}:
            raise MlclError(
                f"{self.root / self.files['train']}: column {self.split_column} holds "
                f"{short(min(unknown))!r}; use train, val or test"
            )
        return named

    def _labelled(self, split: Split, header: list[str], rows: Rows) -> Samples:
        paths = [self.root / row[header.index(self.image_column)].strip() for row in rows.values()]
        read = self._named if self.labels_column else self._coded
        return Samples(paths, read(header, rows, self.root / self.files[split]))

    def _named(self, header: list[str], rows: Rows, file: Path) -> Targets:
        """(N, K) from a column of names."""
        column, place = header.index(str(self.labels_column)), {name: k for k, name in enumerate(self.classes)}
        targets = np.full((len(rows), self.num_classes), ABSENT, dtype=np.int8)
        for target, (number, row) in zip(targets, rows.items(), strict=True):
            names = _names(row[column])
            if names == {"-1"}:
                target[:] = UNKNOWN
            elif unknown := names - place.keys():
                known = short(", ".join(self.classes[:12]))
                raise MlclError(f"{file}, row {number}: unknown class {short(min(unknown))!r}; known: {known}")
            else:
                target[[place[name] for name in names]] = PRESENT
        return targets

    def _coded(self, header: list[str], rows: Rows, file: Path) -> Targets:
        """(N, K) from a column per class; the columns are found once, as there may be thousands."""
        place = {name: column for column, name in enumerate(header)}
        if missing := [name for name in self.classes if name not in place]:
            raise MlclError(f"{file} has no column for the class {short(missing[0])!r}")
        columns = [place[name] for name in self.classes]
        targets = np.empty((len(rows), self.num_classes), dtype=np.int8)
        for target, (number, row) in zip(targets, rows.items(), strict=True):
            cells = [row[column].strip() for column in columns]
            try:
                target[:] = [_CODES[cell] for cell in cells]
            except KeyError as error:
                wrong, name = error.args[0], self.classes[cells.index(error.args[0])]
                raise MlclError(
                    f"{file}, row {number}: {short(wrong)!r} in column {short(name)!r} is no label; use 1, 0, "
                    "-1 or nothing (or, for a column of names, data.labels_column)"
                ) from None
        return targets


def _read_rows(file: Path, column: str) -> Rows:
    """The rows that are not blank, with the delimiter with which the header has this column."""
    try:
        data = file.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:  # other encodings are not guessed: a wrong guess is another file name or class
        line = data.count(b"\n", 0, error.start) + 1
        raise MlclError(f"{file}, line {line}: {error}; save the table as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise MlclError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error} (data.csv)") from None
    for delimiter in ",;\t,":  # commas again, if none fits: for the message
        reader = csv_reader.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            rows = {number: row for number, row in enumerate(reader, 1) if any(cell.strip() for cell in row)}
        except csv_reader.Error as error:
            raise MlclError(f"{file}, line {reader.line_num}: {error} (a quote that nothing closes?)") from None
        if column in [cell.strip() for cell in next(iter(rows.values()), [])]:
            break
    return rows


def _names(cell: str) -> set[str]:
    return {name.strip() for name in cell.split(";") if name.strip()}
