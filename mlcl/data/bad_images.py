"""Pictures that cannot be read, with ``data.on_bad_image: skip``: listed in a CSV file, counted, limited."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from mlcl.data.file_names import short
from mlcl.distributed import gather_objects, rank
from mlcl.errors import MlclError, cell, visible

_HEADER = ["split", "image", "reason"]
_PRINTED = 10  # pictures that get a line on the terminal


class BadImages:
    """The unreadable pictures of a split of ``count`` images.

    All processes append to the same file; without one, each counts only the pictures that it has found itself.
    """

    def __init__(self, split: str, count: int, file: Path | None) -> None:
        self.split, self.count, self.file, self.limit = split, count, file, limit(count)
        self._own: set[str] = set()

    def add(self, path: Path, reason: str) -> None:
        """List a picture, unless it is listed; MlclError if there are too many now, or the list cannot be written."""
        image = name_of(path)
        if image in self._own:  # in every epoch again
            return
        self._own.add(image)
        others = listed(self.file, self.split)
        if image not in others:
            if self.file is not None:
                _append(self.file, [[self.split, image, cell(short(reason))]])
            if len(others) < _PRINTED:
                # One call: print writes the end of the line separately, and other processes' lines come between.
                sys.stderr.write(f"not read, so skipped: {visible(short(image))}: {visible(short(reason))}\n")
        found = len(others | self._own)
        if found > self.limit:
            where = f"listed in {self.file}" if self.file else f"the last is {short(image)}"
            raise MlclError(
                f"{found:,} of {self.count:,} {self.split} images cannot be read, more than data.on_bad_image skip "
                f"allows ({self.limit:,}); {where}; mlcl check finds all of them"
            )


def new_list(folder: Path) -> Path:
    """The list of a run in ``folder``; an older one is removed, since images may be repaired by now."""
    file = folder / "bad_images.csv"
    if file.exists():
        with file.open(encoding="utf-8", errors="replace") as text:
            if text.readline().strip() != ",".join(_HEADER):
                raise MlclError(f"{file} is in the way: bad images are to be listed there; rename it")
        file.unlink()
    return file


def name_of(path: Path) -> str:
    """A picture's path in the list: valid UTF-8, and no formula for a spreadsheet that opens it."""
    return cell(str(path)).encode(errors="backslashreplace").decode()


def limit(count: int) -> int:
    """How many of a split's images may be bad: 1 %, or 10 in a smaller one, but never more than half of it."""
    return min(max(10, count // 100), count // 2)


def listed(file: Path | None, split: str | None = None) -> set[str]:
    """The images in a list, of one split or of all."""
    return {image for own, image, _ in _rows(file) if split in (None, own)}


def share(file: Path | None) -> None:
    """Add to the first process's list what others have listed on a disk that it does not see; all of them call it."""
    first, *others = gather_objects(_rows(file))
    known = {(split, image) for split, image, _ in first}
    new = {(split, image): reason for rows in others for split, image, reason in rows if (split, image) not in known}
    if file is not None and new and rank() == 0:
        _append(file, [[*one, reason] for one, reason in new.items()])


def _rows(file: Path | None) -> list[list[str]]:
    """Split, image and reason."""
    if file is None or not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as text:
        return [row for row in csv.reader(text) if len(row) == len(_HEADER) and row != _HEADER]


def _append(file: Path, rows: Sequence[Sequence[str]]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # A short text is written at once when the file is closed, so that the rows of several processes stay whole.
        with file.open("a", newline="", encoding="utf-8", errors="backslashreplace") as text:
            writer = csv.writer(text, lineterminator="\n")
            if not text.tell():
                writer.writerow(_HEADER)
            writer.writerows(rows)
    except OSError as error:
        raise MlclError(f"{file}: bad images cannot be listed: {error.strerror}") from error
