"""Decoded, resized pictures of a split in one memory-mapped file, which all processes and later runs share."""

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
import torch
import torchvision
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlcl.data.augment import Augmentation
from mlcl.data.images import ImageError, read_image
from mlcl.errors import MlclError, visible
from mlcl.system.files import write_whole

_FORMAT = 2  # to be raised when another content is written for the same pictures
_NO_SIZE = torch.zeros(2, dtype=torch.int32)
_BATCH = 16  # pictures per message from a decoding process


class CachedPixels:
    """The pictures of a ``.npy`` file of :func:`open_cache`, by index; ValueError for another file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Copy on write: torch wants writable arrays, and the file must never change.
        self.rows: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
        if self.rows.ndim != 1 or self.rows.dtype.names != ("size", "pixels"):
            raise ValueError(f"{path} is not a cache of pictures")

    def __call__(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        """The square picture (3, side, side) uint8, and height and width of the original: 0 if it could not be read.

        The picture is mapped memory: copy it before changing it. (Copying here would halve the images per second.)
        """
        row = self.rows[index]
        height, width = row["size"].tolist()
        return torch.from_numpy(row["pixels"]).permute(2, 0, 1), (height, width)

    def __reduce__(self) -> tuple[type["CachedPixels"], tuple[Path]]:
        """A spawned process maps the file itself; pickling would send it all pixels."""
        return CachedPixels, (self.path,)


def open_cache(
    paths: Sequence[Path],
    augmentation: Augmentation,
    kind: Literal["ram", "disk"],
    folder: Path | None = None,
    workers: int = 0,
    skip: bool = False,
    reading: dict[str, Any] | None = None,
) -> CachedPixels:
    """The cache of these pictures. If there is none, the first process writes it and the others wait.

    Args:
        paths: of the pictures.
        augmentation: whose square is kept.
        kind: ``disk``; or ``ram``, a file in shared memory that is deleted when this process ends.
        folder: to write to; by default in the user's cache folder, or in shared memory.
        workers: processes that decode.
        skip: leave out pictures that cannot be read.
        reading: arguments of :func:`read_image`.

    Raises:
        MlclError: if there is not enough space, or a picture cannot be read.
    """
    folder = folder or (_shared_memory() if kind == "ram" else cache_folder() / "pixels")
    path = folder / f"{_key(paths, augmentation, skip, reading or {})}.npy"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder == _shared_memory() and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(None, "the folder belongs to another user")
        cache = _opened(path, len(paths), augmentation)  # without the lock: the folder may be read-only
        if cache is None:
            with FileLock(path.with_suffix(".lock")):
                if _opened(path, len(paths), augmentation) is None:
                    squares = _Squares(paths, augmentation, skip, reading or {})
                    _write(path, squares, workers, spare=0.1 if kind == "ram" else 0.0)
                cache = CachedPixels(path)
    except OSError as error:
        raise MlclError(
            f"no cache of pictures in {folder}: {error.strerror or error}; give --data.cache_dir another folder, or "
            "--data.cache none"
        ) from error
    if kind == "ram":  # processes that have mapped it keep it; shared memory would otherwise stay until a restart
        atexit.register(path.unlink, missing_ok=True)
    return cache


class _Squares(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, paths: Sequence[Path], augmentation: Augmentation, skip: bool, reading: dict[str, Any]) -> None:
        self.paths, self.augmentation, self.skip, self.reading = paths, augmentation, skip, reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(side, side, 3) uint8, and height and width of the original, int32."""
        try:
            picture = read_image(self.paths[index], **self.reading)
        except ImageError as error:
            if not self.skip:
                raise error.with_remedy(self.paths[index]) from error
            return torch.zeros(self.augmentation.side, self.augmentation.side, 3, dtype=torch.uint8), _NO_SIZE
        square = self.augmentation.resized(picture)
        return square.permute(1, 2, 0).contiguous(), torch.tensor(picture.shape[-2:], dtype=torch.int32)


def _row(side: int) -> np.dtype[Any]:
    return np.dtype([("size", np.int32, 2), ("pixels", np.uint8, (side, side, 3))])


def _write(path: Path, squares: _Squares, workers: int, spare: float) -> None:
    """Write the cache, if a share ``spare`` of the free space remains: loaders use shared memory, too."""
    count, side = len(squares), squares.augmentation.side
    dtype = _row(side)
    needed, free = count * dtype.itemsize / 1e9, shutil.disk_usage(path.parent).free / 1e9
    what = f"a cache of {count:,} pictures at {side} x {side} takes {needed:.3g} GB in {path.parent}"
    if needed > (1 - spare) * free:
        raise MlclError(f"{what}, {free:.3g} GB are free: give --data.cache_dir another folder, or --data.cache none")
    print(visible(what), file=sys.stderr, flush=True)  # not say: any rank may be the one that writes
    for stale in path.parent.glob(f".{path.stem}.*"):  # of a killed process; as we have the lock, nobody is writing it
        stale.unlink()

    def content(partial: Path) -> None:
        # Written, not mapped: on a full disk, writing to mapped memory kills the process.
        with partial.open("wb") as file:
            header = {"descr": dtype.descr, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            for pixels, sizes in with_progress(DataLoader(squares, _BATCH, num_workers=workers), "caching"):
                rows = np.empty(len(sizes), dtype=dtype)
                rows["size"], rows["pixels"] = sizes.numpy(), pixels.numpy()
                file.write(rows.tobytes())

    write_whole(path, content)


def with_progress(loader: DataLoader[Any], what: str) -> Iterable[Any]:
    """The batches of a loader, with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():  # rich before 15 prints an empty line even if the bar is disabled
        return loader
    return track(loader, what, console=Console(stderr=True))


def _opened(path: Path, count: int, augmentation: Augmentation) -> CachedPixels | None:
    """The file, if it is there and has the right form; else None."""
    try:
        cache = CachedPixels(path)
    except (FileNotFoundError, ValueError, EOFError):  # missing, another content, or cut off
        return None
    return cache if len(cache.rows) == count and cache.rows.dtype == _row(augmentation.side) else None


def _key(paths: Sequence[Path], augmentation: Augmentation, skip: bool, reading: dict[str, Any]) -> str:
    """Hash of all that changes the pixels: files (path, size, modification time), reading, resizing, versions."""
    versions = torchvision.__version__, PIL.__version__
    how = augmentation.side, str(augmentation.mode), sorted(reading.items())
    digest = hashlib.blake2b(repr((_FORMAT, how, versions)).encode())
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


def cache_folder() -> Path:
    """Where mlcl keeps what it can compute again, for all runs of this user."""
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "mlcl"


def _shared_memory() -> Path:
    memory = Path("/dev/shm")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return (memory if memory.is_dir() else Path(tempfile.gettempdir())) / f"mlcl-{user}"
