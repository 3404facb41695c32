"""The one exception that reaches a person as a single line."""


class MlclError(Exception):
    """Something the user can mend; the message says what, where, and what to do, in one line.

    The command line prints ``mlcl: <message>`` and ends with status 1, without a traceback
    (set ``MLCL_DEBUG=1`` to see one).
    """


def visible(text: str) -> str:
    """A text whose file names can neither break the line nor steer the terminal: control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
