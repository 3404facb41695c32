"""What is said to the person at the terminal: by the first process only, on stderr; results go to stdout."""

import sys

from lightning.pytorch.utilities import rank_zero_only


def is_first() -> bool:
    """Whether this is the first process, as far as its launcher has said; true where there is only one."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def say(line: str) -> None:
    """Print a line, once for all processes."""
    if is_first():
        print(line, file=sys.stderr, flush=True)
