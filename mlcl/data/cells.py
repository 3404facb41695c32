"""The names in one cell of a table: with a separator between them, as a list, or as Label Studio exports choices."""

import ast
import io
import json
import tokenize
import warnings
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from mlcl.data.file_names import short
from mlcl.errors import MlclError

SEPARATOR = ";"
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_BETWEEN_NAMES = ("|", ",", ";", "\t", "\n")
_ALSO_IN_NAMES = ("/", " ", "&", "+")  # more often part of a name, such as hot dog
_NOTHING = {"nan", "NaN", "<NA>"}  # as programs write a missing value


def is_choices(cell: str) -> bool:
    """Whether Label Studio wrote this: ``{"choices": [...]}``. In its tables an empty cell is not annotated."""
    return cell.lstrip()[:1] == "{" and '"choices"' in cell


def names_in(cell: str, separator: str = SEPARATOR) -> set[str]:
    """The names in a cell: of a JSON or Python list, of Label Studio's choices, or of a text with separators.

    Raises:
        MlclError: for a list of other things than names, and for names in quotes without the brackets of a list.
    """
    text = cell.strip()
    if text and _BRACKETS.get(text[0]) == text[-1]:
        content = _content(text)
        if content is not None:
            return {name for name in (str(value).strip() for value in content) if name}
    found = {name.strip() for name in text.split(separator)} - {""}
    if quoted := [name for name in found if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"]:
        raise MlclError(f'{short(quoted[0])} is in quotes: leave them out, or write a list, ["a", "b"]')
    return found


def _content(text: str) -> Collection[Any] | None:
    """What a list in brackets holds; None for a text that is in brackets itself, such as [other]."""
    content: Any = None
    with suppress(ValueError, RecursionError):
        content = json.loads(text)
    if content is None:
        content = _python_list(text)
    if isinstance(content, dict) and set(content) == {"choices"}:
        content = content["choices"]
        content = [content] if isinstance(content, str) else content
    if isinstance(content, list | tuple | set) and all(type(value) in (str, int, float) for value in content):
        return content
    if content is None and (text[0] == "(" or not any(mark in text for mark in (*_BETWEEN_NAMES, '"', "'"))):
        return None
    raise MlclError(f'{short(text)} is no list of names; write ["a", "b"]')


def _python_list(text: str) -> Any:
    with warnings.catch_warnings(), suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        warnings.simplefilter("ignore")  # of a backslash in a name
        content = ast.literal_eval(text)
        strings = [
            token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.STRING
        ]
        # Python joins strings without a comma between them, as numpy prints an array: ['a' 'b'] would be ab.
        return content if isinstance(content, dict) or len(strings) <= len(content) else text
    return None


def check_names(names: Collection[str], chosen: bool) -> None:
    """Raise MlclError for a name that seems to be several, with another separator, or none.

    That is a name whose parts are all names themselves, or parts of other names. A separator that is also common in
    names counts only if all parts are names, and the user has not ``chosen`` one.
    """
    if nothing := sorted(_NOTHING & set(names)):
        raise MlclError(f"{nothing[0]!r} is how programs write a missing value; leave such cells empty")
    if names and set(names) <= {"0", "1"}:
        raise MlclError("0 and 1 are no names; leave data.labels_column out if each class has a column of its own")
    for mark in (*_BETWEEN_NAMES, *([] if chosen else _ALSO_IN_NAMES)):
        parts = {name: {part.strip() for part in name.split(mark)} - {""} for name in names if mark in name}
        shared = Counter(part for own in parts.values() for part in own) if mark in _BETWEEN_NAMES else Counter()
        for name, own in sorted(parts.items()):
            if mark == "|" or all(part in names or shared[part] > 1 for part in own):
                raise MlclError(
                    f"{short(name)!r} looks like several names; give --data.label_separator {mark!r} to divide it, or "
                    "data.classes if it is one"
                )


def hint(name: str, known: Collection[str]) -> str:
    """The option that divides an unknown name into known ones, if there is one."""
    for mark in (*_BETWEEN_NAMES, *_ALSO_IN_NAMES):
        if mark in name and {part.strip() for part in name.split(mark)} - {""} <= set(known):
            return f"; to divide it, --data.label_separator {mark!r}"
    return ""
