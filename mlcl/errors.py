"""The one exception that the user sees as a single line, and the text in such a line made safe to print."""

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


class MlclError(Exception):
    """Something the user can mend; the message says what, where, and what to do, in one line.

    The command line prints ``mlcl: <message>`` and ends with status 1; ``MLCL_DEBUG=1`` shows the traceback.
    """


def find_cause(error: BaseException, kind: type[_Error]) -> _Error | None:
    """The first exception of a kind: the error itself, or one that it was raised from or while handling."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause


def visible(text: str) -> str:
    """A text whose file names can neither break the line nor steer the terminal: control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def line(text: str, most: int = 2000) -> str:
    """A message as one line that harms no terminal; of a very long one, its beginning and its end."""
    text = visible(" ".join(text.split("\n")))
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 3 :]}"


def cell(text: str) -> str:
    r"""A text for a CSV file, behind an apostrophe where a spreadsheet would take it for a formula and run it.

    (CWE-1236; class and file names come from other people's data.) A carriage return, which Python's csv module leaves
    bare, is written as ``\r``.

    >>> cell("=HYPERLINK(1)"), cell("dining table")
    ("'=HYPERLINK(1)", 'dining table')
    """
    text = text.replace("\r", "\\r")
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) else text
