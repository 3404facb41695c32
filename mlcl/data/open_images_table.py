"""Tables of Open Images with image-level labels, of up to some ten million rows."""

import csv
from array import array
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlcl.data.file_names import checked, short
from mlcl.errors import MlclError

YES, NO, MACHINE = 1, 2, 4  # what a row says of its class: verified as present or as absent, or found by a machine
_COLUMNS = "ImageID", "Source", "LabelName", "Confidence"
_VERIFIED = {"1": YES, "0": NO, "1.0": YES, "0.0": NO}


class Labels(NamedTuple):
    """R rows, each of an image and a class."""

    images: dict[str, int]  # ImageID -> number, from 0 in the order of the rows
    mids: dict[str, int]  # LabelName -> number
    image: NDArray[np.int32]  # (R,)
    mid: NDArray[np.int32]  # (R,)
    said: NDArray[np.uint8]  # (R,) YES, NO or MACHINE


def read_labels(
    files: Sequence[Path], present: set[str] | None, wanted: set[str] | None, machine_confidence: float | None
) -> Labels:
    """The rows that count, read one by one: a row takes 9 bytes, and each image some 200.

    Args:
        files: comma-separated, in UTF-8, with ImageID, Source, LabelName and Confidence.
        present: only of these images; by default of all.
        wanted: only of these classes; by default of all.
        machine_confidence: rows of a machine below it are left out; by default all of them.

    Raises:
        MlclError: for a file that cannot be read, a missing column, a row with fewer cells, a human's label that is
            neither 1 nor 0, or a machine's that is no number.
    """
    images, mids = dict[str, int](), dict[str, int]()
    image, mid, said = array("i"), array("i"), array("B")
    for file in files:
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.reader(stream)
                header = [cell.strip() for cell in next(reader, [])]
                if missing := [name for name in _COLUMNS if name not in header]:
                    columns = short(" ".join(", ".join(header).split()))  # an open quote takes in whole lines
                    raise MlclError(f"{file} has no column {missing[0]!r}; its columns are {columns}")
                cells = itemgetter(*map(header.index, _COLUMNS))
                for row in reader:
                    if not row:
                        continue
                    try:
                        id, source, label, confidence = cells(row)
                    except IndexError:
                        text = f"{len(row)} cells, the header has {len(header)}"
                        raise MlclError(f"{file}, line {reader.line_num}: {text}") from None
                    if (present is not None and id not in present) or (wanted is not None and label not in wanted):
                        continue
                    what = _VERIFIED.get(confidence)
                    if what is None or source == "machine":
                        place = f"{file}, line {reader.line_num}"
                        what = _other(source, confidence, machine_confidence, place)
                        if not what:
                            continue
                    number = images.get(id)
                    if number is None:
                        checked(id, f"{file}, line {reader.line_num}, column ImageID")
                        number = images[id] = len(images)
                    if label not in mids:
                        if not label.startswith("/"):
                            where = f"{file}, line {reader.line_num}, column LabelName"
                            raise MlclError(f"{where}: {short(label)!r} is no id of a class, such as /m/01g317")
                        mids[label] = len(mids)
                    image.append(number)
                    mid.append(mids[label])
                    said.append(what)
        except UnicodeDecodeError as error:
            raise MlclError(f"{file}: {error}; save the table as UTF-8") from None
        except csv.Error as error:
            raise MlclError(f"{file}, line {reader.line_num}: {error} (a quote that nothing closes?)") from None
        except OSError as error:
            raise MlclError(f"{file} cannot be read: {error.strerror}") from None
    numbers = np.array(image, np.int32), np.array(mid, np.int32), np.array(said, np.uint8)
    return Labels(images, mids, *numbers)


def _other(source: str, confidence: str, machine_confidence: float | None, place: str) -> int:
    """What a row says that is a machine's or not written as 1 or 0; 0 if it does not count."""
    try:
        value = float(confidence)
    except ValueError:
        value = -1.0
    if source == "machine":
        if not 0 <= value <= 1:
            raise MlclError(f"{place}: the confidence {short(confidence)!r} is no number from 0 to 1")
        return MACHINE if machine_confidence is not None and value >= machine_confidence else 0
    if value not in (0, 1):
        wrong = f"confidence {short(confidence)!r} of source {short(source)!r}"
        raise MlclError(f"{place}: {wrong}; it must be 1 or 0, or the source machine")
    return YES if value else NO
