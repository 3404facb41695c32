"""Files of equal rows, memory-mapped: whole or not there, written by whoever comes first, shared by all processes."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mlcl.data.images import ImageError, Pictures
from mlcl.errors import MlclError, visible
from mlcl.system.files import write_whole

Opened = TypeVar("Opened")
INSTEAD = ", or --data.cache none"  # what else to do where a cache finds no place


def open_or_write(path: Path, opened: Callable[[], Opened], write: Callable[[], None]) -> Opened:
    """What ``opened`` makes of a file; if it is not there or not as expected, one process writes it, the others wait.

    ``opened`` raises a FileNotFoundError, ValueError or EOFError for a file that is missing, another one, or cut off.
    """
    wrong = FileNotFoundError, ValueError, EOFError
    try:
        return opened()  # without the lock: the folder may be read-only
    except wrong:
        with FileLock(path.with_suffix(".lock")):
            try:
                return opened()
            except wrong:
                write()
        return opened()


def read_rows(path: Path, count: int | None = None) -> NDArray[Any]:
    """The rows of a file as a structured array (N,), mapped; ValueError if they are not ``count``."""
    # Copy on write: torch wants writable arrays, and the file must never change.
    rows: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    if rows.ndim != 1 or rows.dtype.names is None or count not in (None, len(rows)):
        raise ValueError(f"{path} does not hold these rows")
    return rows


def write_rows(
    path: Path,
    dtype: np.dtype[Any],
    count: int,
    batches: Iterable[NDArray[Any]],
    what: str,
    spare: float = 0.0,
    instead: str = INSTEAD,
) -> None:
    """Write ``count`` rows of ``dtype``, batch by batch, if a share ``spare`` of the free space remains.

    The size is said before. An MlclError if there is not enough space; ``what`` describes the rows, ``instead`` is what
    else can be done about it.
    """
    needed, free = count * dtype.itemsize / 1e9, shutil.disk_usage(path.parent).free / 1e9
    what = f"{what} takes {needed:.3g} GB in {path.parent}"
    if needed > (1 - spare) * free:
        raise MlclError(f"{what}, {free:.3g} GB are free: give --data.cache_dir another folder{instead}")
    print(visible(what), file=sys.stderr, flush=True)  # not say: any rank may be the one that writes
    for stale in path.parent.glob(f".{path.stem}.*"):  # of a killed process; as we have the lock, nobody is writing it
        stale.unlink()

    def content(partial: Path) -> None:
        # Written, not mapped: on a full disk, writing to mapped memory kills the process.
        with partial.open("wb") as file:
            header = {"descr": dtype.descr, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            for rows in batches:
                file.write(rows.tobytes())

    write_whole(path, content)


def key_of(paths: Sequence[Path], how: Any, skip: bool) -> str:
    """Hash of pictures (path, size, modification time) and of all else that changes the rows; absent ones with skip."""
    digest = hashlib.blake2b(repr(how).encode())
    if isinstance(paths, Pictures):
        digest.update(paths.key.encode())
        return digest.hexdigest()[:24]
    for path in paths:
        try:
            state = os.stat(path)
            known = f"{state.st_size}\0{state.st_mtime_ns}"
        except OSError as error:
            if not skip:
                raise ImageError(f"{path}: {error.strerror}") from None
            known = "absent"
        digest.update(f"{os.path.abspath(path)}\0{known}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:24]


def with_progress(loader: DataLoader[Any], what: str) -> Iterable[Any]:
    """The batches of a loader, with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():  # rich before 15 prints an empty line even if the bar is disabled
        return loader
    from rich.console import Console
    from rich.progress import track

    return track(loader, what, console=Console(stderr=True))


def no_cache(folder: Path, error: OSError, what: str = "pictures", instead: str = INSTEAD) -> MlclError:
    """The error of a cache's folder that cannot be used."""
    reason = error.strerror or error
    return MlclError(f"no cache of {what} in {folder}: {reason}; give --data.cache_dir another folder{instead}")


def cache_folder() -> Path:
    """Where mlcl keeps what it can compute again, for all runs of this user."""
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "mlcl"
