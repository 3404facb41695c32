"""Decoded, resized pictures of a split in one file, shared by all processes and all runs that want the same pixels.

A row of it is mapped memory; decoding and resizing the JPEG takes dozens of times longer than copying that.
"""

import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
import torch
import torchvision
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlcl.data.augment import Augmentation
from mlcl.data.images import ImageError, read_image
from mlcl.errors import MlclError, visible
from mlcl.system import signals

_FORMAT = 1  # to be raised with the meaning of what is written
_NO_SIZE = torch.zeros(2, dtype=torch.int32)
_AT_ONCE = 16  # pictures per message from a decoding process


class CachedPixels:
    """The pictures of a cache file, by index.

    Args:
        path: a ``.npy`` file, from :func:`open_cache`.

    Raises:
        ValueError: if it is not what :func:`open_cache` writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Copy on write: the file is never written to, and torch wants arrays that it could write to.
        self.rows: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
        if self.rows.ndim != 1 or self.rows.dtype.names != ("size", "pixels"):
            raise ValueError(f"{path} is no cache of pictures")

    def __call__(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        """The square picture (3, side, side) uint8, mapped, so to be copied before it is changed; the original's size.

        The size is 0 where the picture could not be read. (Reading a row into memory of its own halves the images per
        second.)
        """
        row = self.rows[index]
        height, width = row["size"].tolist()
        return torch.from_numpy(row["pixels"]).permute(2, 0, 1), (height, width)

    def __reduce__(self) -> tuple[type["CachedPixels"], tuple[Path]]:
        """A process that is spawned, not forked, maps the file itself instead of being sent all of it."""
        return CachedPixels, (self.path,)


def open_cache(
    paths: Sequence[Path],
    augmentation: Augmentation,
    kind: Literal["ram", "disk"],
    folder: Path | None = None,
    workers: int = 0,
    skip: bool = False,
) -> CachedPixels:
    """The cache of these pictures; where there is none yet, the first process that asks writes it, the others wait.

    Its name is a hash of all that changes its content: the files (path, size, time of change), the side, the
    interpolation, the versions of what decodes and resizes. Three of its pictures are compared with their files.

    Args:
        paths: of the pictures.
        augmentation: whose square is kept.
        kind: ``disk``; or ``ram``, shared memory, given back when this process ends.
        folder: to write to; by default ``mlcl/pixels`` in the user's cache folder, or in shared memory.
        workers: processes that decode.
        skip: leave out pictures that cannot be read.

    Raises:
        MlclError: if there is not enough space, or a picture cannot be read.
    """
    folder = folder or (_shared_memory() if kind == "ram" else _cache_folder())
    path = folder / f"{_key(paths, augmentation, skip)}.npy"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder == _shared_memory() and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(None, "the folder belongs to another user")
        cache = _opened(path, paths, augmentation)  # without the lock: another user's folder may be read-only
        if cache is None:
            with FileLock(path.with_suffix(".lock")):
                cache = _opened(path, paths, augmentation)
                if cache is None:
                    _write(path, _Squares(paths, augmentation, skip), workers, spare=0.1 if kind == "ram" else 0.0)
                    cache = CachedPixels(path)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise MlclError(
            f"no cache of pictures in {folder}: {error.strerror or error}{where}; give --data.cache_dir another "
            "folder, or --data.cache none"
        ) from error
    if kind == "ram":  # who has it open keeps it; without this it would stay until the machine restarts
        signals.when_ending(functools.partial(_remove, path, os.getpid()))
    return cache


class _Squares(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, paths: Sequence[Path], augmentation: Augmentation, skip: bool) -> None:
        self.paths, self.augmentation, self.skip = paths, augmentation, skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(side, side, 3) uint8, and height and width of the original, int32."""
        try:
            picture = read_image(self.paths[index])
        except ImageError as error:
            if not self.skip:
                raise error.with_remedy(self.paths[index]) from error
            return torch.zeros(self.augmentation.side, self.augmentation.side, 3, dtype=torch.uint8), _NO_SIZE
        square = self.augmentation.resized(picture)
        return square.permute(1, 2, 0).contiguous(), torch.tensor(picture.shape[-2:], dtype=torch.int32)


def _row(side: int) -> np.dtype[Any]:
    return np.dtype([("size", np.int32, 2), ("pixels", np.uint8, (side, side, 3))])


def _write(path: Path, squares: _Squares, workers: int, spare: float) -> None:
    """Under another name until it is whole. Written, not mapped: on a full disk a mapped page kills the process."""
    count, side, partial = len(squares), squares.augmentation.side, path.with_suffix(".partial")
    dtype = _row(side)
    if path.exists():
        _tell(f"{path} is damaged and written again")
    _announce(path.parent, count, dtype.itemsize, side, spare)
    loader = DataLoader(squares, batch_size=_AT_ONCE, num_workers=workers)
    columns = TextColumn("caching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with partial.open("wb") as file, Progress(*columns, console=Console(file=sys.stderr)) as progress:
            task = progress.add_task("caching", total=count)
            header = {"descr": dtype.descr, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            for pixels, sizes in loader:
                rows = np.empty(len(sizes), dtype=dtype)
                rows["size"], rows["pixels"] = sizes.numpy(), pixels.numpy()
                file.write(rows.tobytes())
                progress.advance(task, len(rows))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _announce(folder: Path, count: int, row: int, side: int, spare: float) -> None:
    """Say what it will take.

    Args:
        folder: to write to.
        count: of pictures.
        row: bytes of each.
        side: of each, in pixels.
        spare: share of the free space to leave: loaders pass their batches through shared memory, too.

    Raises:
        MlclError: if that is more than there is.
    """
    needed, free = count * row, shutil.disk_usage(folder).free
    what = f"a cache of {count:,} pictures at {side} x {side} takes {_size(needed)} in {folder} ({_size(free)} free)"
    if needed > (1 - spare) * free:
        raise MlclError(f"{what}: give --data.cache_dir another folder, or --data.cache none")
    _tell(what)


def _tell(line: str) -> None:
    """By whichever process writes, which need not be the first."""
    print(visible(line), file=sys.stderr, flush=True)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _opened(path: Path, paths: Sequence[Path], augmentation: Augmentation) -> CachedPixels | None:
    """The file, if it is there, of the right form, and holds what its pictures are; else None."""
    squares = _Squares(paths, augmentation, skip=True)
    try:
        cache = CachedPixels(path)
        whole = len(cache.rows) == len(paths) and cache.rows.dtype == _row(augmentation.side)
        for index in {0, len(paths) // 2, len(paths) - 1} if whole else ():
            (pixels, size), (kept, kept_size) = squares[index], cache(index)
            whole = whole and kept_size == tuple(size.tolist()) and torch.equal(kept.permute(1, 2, 0), pixels)
    except (FileNotFoundError, ValueError, EOFError):  # none, no .npy file, or cut off
        return None
    return cache if whole else None


def _key(paths: Sequence[Path], augmentation: Augmentation, skip: bool) -> str:
    versions = torchvision.__version__, PIL.__version__
    digest = hashlib.blake2b(repr((_FORMAT, augmentation.side, str(augmentation.mode), versions)).encode())
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


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlcl" / "pixels"


def _shared_memory() -> Path:
    memory = Path("/dev/shm")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return (memory if memory.is_dir() else Path(tempfile.gettempdir())) / f"mlcl-{user}"


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:  # not a forked one
        with suppress(OSError), FileLock(path.with_suffix(".lock"), timeout=5):
            path.unlink(missing_ok=True)
