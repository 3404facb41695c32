"""Decoded, resized pictures of a split in one memory-mapped file, which all processes and later runs share."""

import atexit
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlcl.data.augment import Augmentation
from mlcl.data.images import DECODER, ImageError, read_at
from mlcl.data.row_file import cache_folder, key_of, no_cache, open_or_write, read_rows, with_progress, write_rows

_FORMAT = 2  # to be raised when another content is written for the same pictures
_NO_SIZE = torch.zeros(2, dtype=torch.int32)
_BATCH = 16  # pictures per message from a decoding process


class CachedPixels:
    """The pictures of a ``.npy`` file of :func:`open_cache`, by index; ValueError for another file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = read_rows(path)
        if self.rows.dtype.names != ("size", "pixels"):
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
    squares, row = _Squares(paths, augmentation, skip, reading or {}), _row(augmentation.side)
    versions = DECODER, PIL.__version__
    how = _FORMAT, (augmentation.side, str(augmentation.mode), sorted((reading or {}).items())), versions
    path = folder / f"{key_of(paths, how, skip)}.npy"
    what = f"a cache of {len(paths):,} pictures at {augmentation.side} x {augmentation.side}"

    def opened() -> CachedPixels:
        cache = CachedPixels(path)
        if len(cache.rows) != len(paths) or cache.rows.dtype != row:
            raise ValueError(f"{path} holds other pictures")
        return cache

    def write() -> None:
        write_rows(path, row, len(paths), _batches(squares, row, workers), what, spare=0.1 if kind == "ram" else 0.0)

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder == _shared_memory() and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(None, "the folder belongs to another user")
        cache = open_or_write(path, opened, write)
    except OSError as error:
        raise no_cache(folder, error) from error
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
            picture = read_at(self.paths, index, **self.reading)
        except ImageError as error:
            if not self.skip:
                raise error.with_remedy(self.paths[index]) from error
            return torch.zeros(self.augmentation.side, self.augmentation.side, 3, dtype=torch.uint8), _NO_SIZE
        square = self.augmentation.resized(picture)
        return square.permute(1, 2, 0).contiguous(), torch.tensor(picture.shape[-2:], dtype=torch.int32)


def _row(side: int) -> np.dtype[Any]:
    return np.dtype([("size", np.int32, 2), ("pixels", np.uint8, (side, side, 3))])


def _batches(squares: _Squares, row: np.dtype[Any], workers: int) -> Iterator[NDArray[Any]]:
    """Rows of the file, decoded by ``workers`` processes."""
    for pixels, sizes in with_progress(DataLoader(squares, _BATCH, num_workers=workers), "caching"):
        rows = np.empty(len(sizes), dtype=row)
        rows["size"], rows["pixels"] = sizes.numpy(), pixels.numpy()
        yield rows


def _shared_memory() -> Path:
    memory = Path("/dev/shm")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return (memory if memory.is_dir() else Path(tempfile.gettempdir())) / f"mlcl-{user}"
