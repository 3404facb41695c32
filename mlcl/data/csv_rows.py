"""Reading a CSV table: with commas, semicolons or tabs, in UTF-8, or in UTF-16 as spreadsheets save it."""

import codecs
import csv
import io
from pathlib import Path

from mlcl.errors import MlclError

Rows = dict[int, list[str]]  # by their number in the file, from 1


def read_rows(file: Path, column: str) -> Rows:
    """The rows of a CSV file that are not blank, the header first.

    Args:
        file: in UTF-8, with or without a byte order mark, or in UTF-16 with one.
        column: a name in the header: the delimiter (comma, semicolon, tab) is the one that shows it.

    Raises:
        MlclError: if the file is missing or not such a table.
    """
    text = _text(file)
    for delimiter in ",;\t":
        rows = _parsed(text, delimiter, file)
        if column in [cell.strip() for cell in next(iter(rows.values()), [])]:
            return rows
    return _parsed(text, ",", file)


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise MlclError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error} (data.csv)") from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:  # other encodings are not guessed: a wrong guess is another file name or class
        line = data.count(b"\n", 0, error.start) + 1
        raise MlclError(f"{file}, line {line}: {error}; save the table as UTF-8") from None
    if (at := text.find("\0")) >= 0:  # UTF-16 without its mark, or no text at all
        raise MlclError(f"{file}, line {text.count(chr(10), 0, at) + 1}: a zero byte; save the table as UTF-8")
    return text


def _parsed(text: str, delimiter: str, file: Path) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return {number: row for number, row in enumerate(reader, 1) if any(cell.strip() for cell in row)}
    except csv.Error as error:
        raise MlclError(f"{file}, line {reader.line_num}: {error} (a quote that nothing closes?)") from None
