"""The files that predict writes: a row's text, and what becomes of the file of all rows."""

import csv
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlcl.data.voc_classes import VOC_CLASSES
from mlcl.errors import MlclError, cell
from mlcl.system.files import write_whole

Extra = dict[str, float | bool]  # what else is told of an image, by its column


class Row(NamedTuple):
    """One image."""

    path: str
    labels: list[str]
    scores: list[float]  # K probabilities, in the order of the classes
    extra: Extra


def _digits(score: float) -> str:
    """Six decimals, since another batch size may change more; of a small score three digits, not 0."""
    return f"{score:.6f}" if score >= 1e-4 else f"{score:.3g}"


class _Table:
    """A text file of all rows, which gets its name when it is complete."""

    needs_all = False  # whether a picture that could not be read is one too few

    def __init__(self, path: Path, classes: Sequence[str], top: int | None) -> None:
        self.path, self.classes = path, classes
        self.top = min(top, len(classes)) if top else None

    def best(self, row: Row) -> list[tuple[str, float]]:
        """Classes and scores: all in order, or the ``top`` highest, highest first."""
        pairs = list(zip(self.classes, row.scores, strict=True))
        return sorted(pairs, key=lambda pair: -pair[1])[: self.top] if self.top else pairs

    def head(self) -> str:
        """What comes before the rows."""
        return ""

    def finish(self, rows: Path) -> None:
        """Give the file of all rows its name."""
        rows.replace(self.path)


class CSVWriter(_Table):
    """``path, labels`` (joined by ``;``), what else is told, a column per class or ``class_1, score_1, ...``."""

    def __init__(self, path: Path, classes: Sequence[str], top: int | None = None, extra: Sequence[str] = ()) -> None:
        if joined := [name for name in classes if ";" in name]:
            raise MlclError(f"--output {path}: the class {joined[0]!r} holds the ; between labels; write a .jsonl file")
        if taken := [name for name in extra if name in classes and not top]:
            raise MlclError(f"--output {path}: {taken[0]!r} is a class and a column; write a .jsonl file, or use --top")
        super().__init__(path, classes, top)
        self.extra = extra

    def head(self) -> str:
        """The names of the columns."""
        numbered = [f"{kind}_{n + 1}" for n in range(self.top or 0) for kind in ("class", "score")]
        return _csv(["path", "labels", *self.extra, *(numbered if self.top else map(cell, self.classes))])

    def text(self, row: Row) -> str:
        """An image's line."""
        cells = [(cell(name), _digits(score)) for name, score in self.best(row)]
        flat = [text for pair in cells for text in pair] if self.top else [score for _, score in cells]
        told = [("no", "yes")[value] if isinstance(value, bool) else _digits(value) for value in row.extra.values()]
        return _csv([cell(row.path), cell(";".join(row.labels)), *told, *flat])


class JSONLinesWriter(_Table):
    """One object a line: ``path``, ``labels``, what else is told, ``scores`` by class, highest first if cut."""

    def text(self, row: Row) -> str:
        """An image's line."""
        scores = {name: float(_digits(score)) for name, score in self.best(row)}
        told = {name: v if isinstance(v, bool) else float(_digits(v)) for name, v in row.extra.items()}
        return json.dumps({"path": row.path, "labels": row.labels, **told, "scores": scores}) + "\n"


class VOC2012Writer(_Table):
    """What the PASCAL server takes: ``results/VOC2012/Main/comp2_cls_test_<class>.txt`` and all of it in a tar.gz.

    Each line is an image id and a confidence, each id once per class (the devkit's manual, "Classification task,
    submission of results"). Competition 2 is for methods trained on other data than VOC's, such as ImageNet weights.
    Until all are there, a row is an id and the confidences of all classes.
    """

    needs_all = True

    def __init__(self, folder: Path, classes: Sequence[str], paths: Sequence[str]) -> None:
        if missing := [name for name in VOC_CLASSES if name not in classes]:
            raise MlclError(f"--writer voc2012: the model does not know {', '.join(missing[:5])}; train it on VOC")
        super().__init__(folder / "results.tar.gz", classes, None)
        self.folder = folder
        self.columns = [list(classes).index(name) for name in VOC_CLASSES]
        seen: set[str] = set()
        for path in paths:
            if (name := _id(path)) in seen or " " in name:
                raise MlclError(f"{path}: the id {name!r} must be there once, and without spaces")
            seen.add(name)

    def text(self, row: Row) -> str:
        """An image's id and confidences."""
        return " ".join([_id(row.path), *(f"{row.scores[column]:.15f}" for column in self.columns)]) + "\n"

    def finish(self, rows: Path) -> None:
        """Write and pack the files; the test set has 10,991 images."""
        parts = [line.split() for line in rows.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
        for k, label in enumerate(VOC_CLASSES, 1):
            text = "".join(f"{part[0]} {part[k]}\n" for part in parts).encode(errors="surrogateescape")
            write_whole(self.folder / "results" / "VOC2012" / "Main" / f"comp2_cls_test_{label}.txt", text)
        write_whole(self.path, self._pack)

    def _pack(self, path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(self.folder / "results", "results", filter=_anonymous)


def _csv(cells: Sequence[str]) -> str:
    """A line of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _id(path: str) -> str:
    """The file's name without the ending."""
    return os.path.splitext(os.path.basename(path))[0]


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the user's login name."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


Writer = CSVWriter | JSONLinesWriter | VOC2012Writer


def voc_test_images(folder: Path) -> list[str] | None:
    """The images of VOC 2012's test set in the order of its list, or None if the folder holds no devkit."""
    for devkit in (folder / "VOCdevkit" / "VOC2012", folder / "VOC2012", folder):
        listing = devkit / "ImageSets" / "Main" / "test.txt"
        if listing.is_file():
            ids = listing.read_text(encoding="utf-8").split()
            paths = [devkit / "JPEGImages" / f"{name}.jpg" for name in ids]
            if missing := [path for path in paths if not path.is_file()]:
                raise MlclError(f"{len(missing)} of {len(ids)} images of {listing} are missing, first {missing[0]}")
            return [str(path) for path in paths]
    return None


def make(
    path: Path,
    classes: Sequence[str],
    kind: str | None,
    top: int | None,
    extra: Sequence[str] = (),
    paths: Sequence[str] = (),
) -> Writer:
    """The writer for ``--writer`` and the ending of ``--output``; ``paths`` are those of all images."""
    if kind == "voc2012":
        return VOC2012Writer(path, classes, paths)
    if path.suffix.lower() == ".csv":
        return CSVWriter(path, classes, top, extra)
    return JSONLinesWriter(path, classes, top)
