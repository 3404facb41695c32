"""Pictures that cannot be read, where the user wants a run to go on without them: listed, counted, limited."""

import csv
import io
import os
import sys
from contextlib import suppress
from pathlib import Path

from mlcl.data.file_names import short
from mlcl.errors import MlclError, cell, visible
from mlcl.runs import CHECKPOINTS

_SAID = 10  # a line each; the others are in the list alone


class BadImages:
    """Those of one split, found by any process: loaders' workers and ranks append to the same file.

    Args:
        split: train, val or test.
        count: of the split's images, N.
        file: the list; without one, each process knows only what it has found itself.
    """

    def __init__(self, split: str, count: int, file: Path | None) -> None:
        self.split, self.count, self.file, self.limit = split, count, file, limit(count)
        self._own: set[str] = set()

    def add(self, path: Path, reason: str) -> None:
        """Note a picture.

        Args:
            path: of the picture.
            reason: in a line.

        Raises:
            MlclError: if the split now has too many.
        """
        image = name_of(path)
        if image in self._own:  # in every epoch again
            return
        self._own.add(image)
        others = listed(self.file, self.split)
        if image not in others:
            self._append(image, reason)
            if len(others) < _SAID:
                line = f"not read, so skipped: {visible(short(image))}: {visible(short(reason))}\n"
                sys.stderr.write(line)  # at once: print would write the end of the line after another process's
        found = len(others | self._own)
        if found > self.limit:
            where = f"; they are listed in {self.file}" if self.file else f", the last is {short(image)}"
            raise MlclError(
                f"{found:,} of {self.count:,} {self.split} images cannot be read, more than data.on_bad_image skip "
                f"allows ({self.limit:,}){where}; mlcl check finds all of them"
            )

    def _append(self, image: str, reason: str) -> None:
        """In one write, which the system does not mix with those of other processes."""
        if self.file is None:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self.file.exists():
            writer.writerow(["split", "image", "reason"])
        writer.writerow([self.split, image, cell(reason)])
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            with os.fdopen(descriptor, "ab", buffering=0) as file:
                file.write(text.getvalue().encode(errors="backslashreplace"))  # the reason may name the file
        except OSError as error:
            raise MlclError(f"{self.file}: bad images cannot be listed: {error.strerror}") from error


def new_list(folder: Path) -> Path:
    """Where to list them; no file of somebody else is touched."""
    file, number = folder / "bad_images.csv", 1
    if (folder / CHECKPOINTS).is_dir():  # of the run that is continued: what was bad may be mended by now
        with suppress(OSError):
            file.unlink()
    while file.exists():
        number += 1
        file = folder / f"bad_images_{number}.csv"
    return file


def name_of(path: Path) -> str:
    """A picture in the list, as it is read from it: no formula, since a list is opened by a double click, and UTF-8."""
    return cell(str(path)).encode(errors="backslashreplace").decode()


def limit(count: int) -> int:
    """How many of a split's images may be bad: 1 %, or 10 in a smaller one, but never more than half of it."""
    return min(max(10, count // 100), count // 2)


def listed(file: Path | None, split: str | None = None) -> set[str]:
    """The images in a list, of one split or of all."""
    if file is None or not file.is_file():
        return set()
    with file.open(newline="", encoding="utf-8") as rows:
        whole = [row for row in csv.reader(rows) if len(row) == 3 and row[0] != "split"]
    return {image for own, image, _ in whole if split in (None, own)}
