"""Writing files that are either whole or not there, and the home folder in their names."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mlcl.errors import MlclError, find_cause


def from_home(word: str) -> str:
    """``~/x``, ``@~/x`` or ``--option=~/x`` with the home folder in place of ``~``, where a shell has left it."""
    match = re.fullmatch(r"((?:--[\w.]+=)?@?)(~[^/]*/.*)", word, re.DOTALL)
    return f"{match[1]}{os.path.expanduser(match[2])}" if match else word


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file under a temporary name beside it, then rename it: a reader or a crash never sees half of it.

    Missing folders are made. A killed process may leave ``.<stem>.<pid>.partial<suffix>`` behind. The content is text
    (written as UTF-8), bytes, or a function that writes the file at the path it is given. A failure of the operating
    system becomes an MlclError.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut after the renaming could leave an empty file
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save raises a RuntimeError after a failed write
        cause = find_cause(error, OSError)
        if cause is None:
            raise
        raise MlclError(f"{os.path.relpath(path)} cannot be written: {cause.strerror or cause}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
