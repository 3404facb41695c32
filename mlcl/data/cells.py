"""The names in one cell of a table: with a separator between them, as a list, or as Label Studio exports choices."""

import ast
import io
import json
import re
import tokenize
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from mlcl.data.file_names import short
from mlcl.data.labels import some
from mlcl.errors import MlclError

SEPARATOR = ";"
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_BETWEEN_NAMES = ("|", ",", ";", "\t", "\n")
_ALSO_IN_NAMES = ("/", " ", "&", "+")  # more often part of a name, such as hot dog
_NOTHING = {"nan", "NaN", "<NA>", "#N/A"}  # as programs write a missing value
_PERHAPS_NOTHING = ("na", "n/a", "none", "null", "nil")
# What Python prints of other collections, and a list whose end is missing.
_NO_NAME = re.compile(r"(frozen)?set\(.*\)|array\(.*\)|[\[{][\"'].*[^\]}]", re.DOTALL)


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
    if _NO_NAME.fullmatch(text):
        raise MlclError(f'{short(text)} is no list of names; write ["a", "b"]')
    found = {name.strip() for name in text.split(separator)} - {""}
    if found == {"-1.0"}:  # pandas makes floats of whole numbers beside missing values
        return {"-1"}
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
    if content is None and (text[0] == "(" or not re.search(r"[|,;\s\"']", text)):
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

    That is a name with ``|``, or one whose parts are all names themselves; or parts of other names, where the user has
    not ``chosen`` a separator and this one is rare in names.
    """
    if nothing := sorted(_NOTHING & set(names)):
        raise MlclError(f"{nothing[0]!r} is how programs write a missing value; leave such cells empty")
    if names and all(set(re.split(r"[\s,]+", name)) <= {"0", "1"} for name in names):
        raise MlclError("0 and 1 are no names; leave data.labels_column out if each class has a column of its own")
    for mark in (*_BETWEEN_NAMES, *([] if chosen else _ALSO_IN_NAMES)):
        found = [name for name in names if mark in name] if mark == "|" else []
        if found := found or _divisible(names, mark, shared=not chosen and mark in _BETWEEN_NAMES):
            raise MlclError(
                f"{short(min(found))!r} looks like several names: give --data.label_separator {mark!r} to divide it, "
                "or data.classes if it is one"
            )


def doubts(names: Collection[str], chosen: bool) -> dict[str, str]:
    """What is odd about the names of classes, but possible."""
    notes, spellings = {}, Counter(map(_folded, names))
    if alike := [name for name in names if spellings[_folded(name)] > 1]:
        notes["spellings"] = f"classes whose names differ in little more than upper and lower case: {some(alike)}"
    if nothing := [name for name in names if name.casefold() in _PERHAPS_NOTHING]:
        notes["nothing"] = f"the class {some(nothing)}: if this means that nothing is known, leave such cells empty"
    for mark in [] if chosen else _ALSO_IN_NAMES:
        if found := _divisible(names, mark, shared=True):
            option = f"--data.label_separator {mark!r} divides them"
            notes["several"] = f"the class {min(found)!r} and others like it may be several names; {option}"
    return notes


def _divisible(names: Collection[str], mark: str, shared: bool) -> list[str]:
    """The names whose parts are all names themselves or, if ``shared``, parts of other names."""
    parts = {name: {part.strip() for part in name.split(mark)} - {""} for name in names if mark in name}
    count = Counter(part for own in parts.values() for part in own) if shared else Counter[str]()
    return [name for name, own in parts.items() if all(part in names or count[part] > 1 for part in own)]


def _folded(name: str) -> str:
    """As a person reads it: without case, odd spaces and the .0 of a whole number."""
    plain = "".join(c for c in unicodedata.normalize("NFKC", name) if c.isprintable())
    return re.sub(r"\.0$", "", " ".join(plain.casefold().split()))


def hint(name: str, known: Collection[str]) -> str:
    """The option that divides an unknown name into known ones, if there is one."""
    for mark in (*_BETWEEN_NAMES, *_ALSO_IN_NAMES):
        if mark in name and {part.strip() for part in name.split(mark)} - {""} <= set(known):
            return f"; to divide it, --data.label_separator {mark!r}"
    return ""
