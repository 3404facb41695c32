"""A table as people save it: with commas, semicolons or tabs, in UTF-8 or what spreadsheets call Unicode text."""

import codecs
import csv
import io
from pathlib import Path

from mlcl.errors import MlclError

Rows = dict[int, list[str]]  # by their number in the file


def read_rows(file: Path, column: str) -> Rows:
    """The rows of a CSV file that are not blank, the header first.

    Args:
        file: in UTF-8, with or without a byte order mark, or in UTF-16 with one.
        column: a name in the header: the delimiter (comma, semicolon, tab) is the one that shows it.

    Raises:
        MlclError: if the file is missing or no such table; with the line.
    """
    text = _text(file)
    found = next((d for d in ",;\t" if column in _header(text, d)), ",")
    return _parsed(text, found, file)


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise MlclError(f"{file}: no such table (data.csv, relative to data.root)") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise MlclError(f"{file} cannot be read: {reason} (data.csv, relative to data.root)") from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not wide and (at := data.find(0)) >= 0:  # UTF-16 without its mark, or no text at all
        raise MlclError(f"{file}, line {data.count(10, 0, at) + 1}: a zero byte; save the table as UTF-8 text")
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise MlclError(f"{file} is not the UTF-16 file that it starts like: {error.reason}") from None
        # Latin-1 and its like are not guessed: a wrong guess is another file name, or another class.
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        raise MlclError(
            f"{file}, line {line}: byte 0x{byte:02x} is not UTF-8; save the table as UTF-8, for example with "
            f"iconv -f LATIN1 -t UTF-8"
        ) from None


def _header(text: str, delimiter: str) -> list[str]:
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return [cell.strip() for cell in next((row for row in rows if any(cell.strip() for cell in row)), [])]
    except csv.Error:
        return []


def _parsed(text: str, delimiter: str, file: Path) -> Rows:
    rows: Rows = {}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for number, row in enumerate(reader, 1):
            if any(cell.strip() for cell in row):
                rows[number] = row
    except csv.Error as error:
        raise MlclError(f"{file}, line {reader.line_num}: {error} (a quote that nothing closes?)") from None
    return rows
