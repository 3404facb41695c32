"""The rows of a CSV file, whatever its delimiter."""

import codecs
import csv
import io
from pathlib import Path

from mlcl.errors import MlclError

Rows = dict[int, list[str]]  # by their number in the file, from 1


def read_rows(file: Path, column: str, option: str) -> Rows:
    """The rows that are not blank, with the delimiter with which the header has this column."""
    try:
        data = file.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:  # other encodings are not guessed: a wrong guess is another file name or class
        line = data.count(b"\n", 0, error.start) + 1
        raise MlclError(f"{file}, line {line}: {error}; save the table as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise MlclError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error} ({option})") from None
    for delimiter in ",;\t,":  # commas again, if none fits: for the message
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            rows = {number: row for number, row in enumerate(reader, 1) if any(cell.strip() for cell in row)}
        except csv.Error as error:
            raise MlclError(f"{file}, line {reader.line_num}: {error} (a quote that nothing closes?)") from None
        if column in [cell.strip() for cell in next(iter(rows.values()), [])]:
            break
    return rows
