"""The one exception that reaches a person as a single line."""


class MlclError(Exception):
    """Something the user can mend; the message says what, where, and what to do, in one line.

    The command line prints ``mlcl: <message>`` and ends with status 1, without a traceback
    (set ``MLCL_DEBUG=1`` to see one).
    """
