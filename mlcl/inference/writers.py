"""The files that predict writes, row by row, so that memory does not grow with them."""

import csv
import json
import os
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from mlcl.data.voc import VOC_CLASSES
from mlcl.errors import MlclError, cell


class Row(NamedTuple):
    """One image."""

    path: str
    labels: list[str]
    scores: list[float]  # K probabilities, in the order of the classes


class Writer(Protocol):
    """Takes rows in order; ``finish`` puts the result in its place, ``abandon`` says where what there is was left."""

    def write(self, row: Row) -> None: ...  # noqa: D102
    def finish(self, failed: int) -> Path: ...  # noqa: D102
    def abandon(self) -> str: ...  # noqa: D102


class _Table:
    """A text file that gets its name when it is whole."""

    def __init__(self, path: Path, classes: Sequence[str], top: int | None) -> None:
        self.path, self.classes = path, classes
        self.top = min(top, len(classes)) if top else None
        self.partial = path.with_name(f"{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Names that are no UTF-8 come back as the bytes they are on the disk.
            self.file: IO[str] = self.partial.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise MlclError(f"--output {path} cannot be written: {error.strerror}") from None

    def best(self, row: Row) -> list[tuple[str, float]]:
        """Classes and scores: all in order, or the highest first."""
        pairs = list(zip(self.classes, row.scores, strict=True))
        return sorted(pairs, key=lambda pair: -pair[1])[: self.top] if self.top else pairs

    def finish(self, failed: int) -> Path:
        """Close it and give it its name."""
        self.file.close()
        self.partial.replace(self.path)
        return self.path

    def abandon(self) -> str:
        """Close it as it is."""
        self.file.close()
        return f"what was predicted so far is in {self.partial}"


class CSVWriter(_Table):
    """``path, labels`` (joined by ``;``), then a column per class, or ``class_1, score_1, ...`` for the highest."""

    def __init__(self, path: Path, classes: Sequence[str], top: int | None = None) -> None:
        if joined := [name for name in classes if ";" in name]:
            raise MlclError(f"--output {path}: the class {joined[0]!r} holds the ; between labels; write a .jsonl file")
        super().__init__(path, classes, top)
        self.rows = csv.writer(self.file, lineterminator="\n")
        numbered = [f"{kind}_{n + 1}" for n in range(self.top or 0) for kind in ("class", "score")]
        self.rows.writerow(["path", "labels", *(numbered if self.top else map(cell, classes))])

    def write(self, row: Row) -> None:
        """Add an image."""
        cells = [(cell(name), f"{score:.6f}") for name, score in self.best(row)]
        flat = [text for pair in cells for text in pair] if self.top else [score for _, score in cells]
        self.rows.writerow([cell(row.path), cell(";".join(row.labels)), *flat])


class JSONLinesWriter(_Table):
    """One object a line: ``path``, ``labels``, ``scores`` by class, the highest first where they are cut."""

    def write(self, row: Row) -> None:
        """Add an image."""
        scores = {name: round(score, 6) for name, score in self.best(row)}
        self.file.write(json.dumps({"path": row.path, "labels": row.labels, "scores": scores}) + "\n")


class VOC2012Writer:
    """What the PASCAL server takes: ``results/VOC2012/Main/comp2_cls_test_<class>.txt`` and all of it in a tar.gz.

    Each line is an image id and a confidence, each id once per class (the devkit's manual, "Classification task,
    submission of results"). Competition 2 is that of methods which saw other data than VOC's, such as ImageNet weights.

    Args:
        folder: gets ``results`` and ``results.tar.gz``.
        classes: of the model; all twenty of VOC must be among them.

    Raises:
        MlclError: if a class is missing, or nothing can be written there.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        if missing := [name for name in VOC_CLASSES if name not in classes]:
            raise MlclError(f"--writer voc2012: the model does not know {', '.join(missing[:5])}; train it on VOC")
        self.folder, self.seen = folder, set[str]()
        self.archive = folder / "results.tar.gz"
        self.columns = [list(classes).index(name) for name in VOC_CLASSES]
        place = folder / "results" / "VOC2012" / "Main"
        self.open = ExitStack()
        try:
            place.mkdir(parents=True, exist_ok=True)
            self.archive.unlink(missing_ok=True)  # of an earlier run: it would be taken for this one's
            names = [place / f"comp2_cls_test_{name}.txt" for name in VOC_CLASSES]
            self.files = [self.open.enter_context(path.open("w", encoding="utf-8")) for path in names]
        except OSError as error:
            raise MlclError(f"--output {folder}: the files cannot be written: {error.strerror}") from None

    def write(self, row: Row) -> None:
        """Add an image; its id is the file's name without the ending."""
        name = os.path.splitext(os.path.basename(row.path))[0]
        if name in self.seen or " " in name:
            raise MlclError(f"{row.path}: the id {name!r} must be there once, and without spaces")
        self.seen.add(name)
        for column, file in zip(self.columns, self.files, strict=True):
            file.write(f"{name} {row.scores[column]:.15f}\n")

    def finish(self, failed: int) -> Path:
        """Pack them.

        Raises:
            MlclError: if an image is missing: the server wants all.
        """
        self.open.close()
        if failed:
            raise MlclError(
                f"{failed:,} of the images could not be read, so {self.archive} was not written: the server wants all"
            )
        with tarfile.open(self.archive, "w:gz") as archive:
            archive.add(self.folder / "results", "results", filter=_anonymous)
        return self.archive

    def abandon(self) -> str:
        """Close them."""
        self.open.close()
        return f"{self.archive} was not written"


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's login name goes to a server."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def voc_test_images(folder: Path) -> list[str] | None:
    """The images of VOC 2012's test set below a devkit's folder, in the order of its list; None where it is none.

    Raises:
        MlclError: if one of them is missing.
    """
    for devkit in (folder / "VOCdevkit" / "VOC2012", folder / "VOC2012", folder):
        listing = devkit / "ImageSets" / "Main" / "test.txt"
        if listing.is_file():
            ids = listing.read_text(encoding="utf-8").split()
            paths = [devkit / "JPEGImages" / f"{name}.jpg" for name in ids]
            if missing := [path for path in paths if not path.is_file()]:
                raise MlclError(f"{len(missing)} of {len(ids)} images of {listing} are missing, first {missing[0]}")
            return [str(path) for path in paths]
    return None


def make(path: Path, classes: Sequence[str], kind: str | None, top: int | None) -> Writer:
    """The writer for ``--writer`` and the ending of ``--output``."""
    if kind == "voc2012":
        return VOC2012Writer(path, classes)
    return (CSVWriter if path.suffix.lower() == ".csv" else JSONLinesWriter)(path, classes, top)
