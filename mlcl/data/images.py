"""Pictures as tensors: read, and resized to what the network sees."""

import os
import platform
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mlcl.data import decoding, jpeg
from mlcl.data.decoding import ImageError as ImageError
from mlcl.data.decoding import Pixels
from mlcl.data.decoding import reading_of as reading_of
from mlcl.data.file_names import short, written_on_windows

# What decodes JPEGs here, with its version; part of what a cache of pictures depends on.
DECODER, _decode_jpeg = jpeg.choose()


def check_files(paths: Sequence[Path], split: str, allowed: int) -> None:
    """Raise ImageError if more than the allowed number of a split's pictures do not exist."""
    if isinstance(paths, Pictures):
        return
    missing = [path for path, found in zip(paths, exist(paths), strict=True) if not found]
    if len(missing) > allowed:
        raise ImageError(
            f"{len(missing):,} of {len(paths):,} {split} images are missing, the first is {short(str(missing[0]))}; "
            f"check --data.root{written_on_windows(missing[0])}"
        )


def exist(paths: Sequence[Path]) -> list[bool]:
    """Whether each file is there: a listing per folder, not a look at each, 82,783 files in a tenth of a second."""
    present = {folder: set(os.listdir(folder)) for folder in {path.parent for path in paths} if os.path.isdir(folder)}
    return [path.name in present.get(path.parent, ()) for path in paths]


class Pictures(Sequence[Path]):
    """Pictures that are no files of their own, by paths that serve as their names."""

    @abstractmethod
    def read(self, index: int) -> bytearray:
        """The content of the file that a picture was, or would be."""

    @property
    @abstractmethod
    def sizes(self) -> NDArray[np.int64]:
        """(N,) bytes of each."""

    @abstractmethod
    def take(self, rows: NDArray[np.integer[Any]]) -> "Pictures":
        """Those at these positions."""

    @property
    @abstractmethod
    def encoded_names(self) -> NDArray[np.bytes_]:
        """(N,) their names below the dataset's folder, in the bytes of a file system."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Changes with the pictures and their order."""


def read_image(
    path: str | Path, white: float | None = None, max_pixels: int | None = None, content: bytearray | None = None
) -> Tensor:
    """A picture as (3, H, W) uint8 RGB; arguments and errors are those of :func:`mlcl.data.decoding.read_pixels`."""
    return as_tensor(decoding.read_pixels(path, white, max_pixels, _decode_jpeg, content))


def sizes(paths: Sequence[Path]) -> NDArray[np.int64]:
    """(N,) bytes of each file, or of what :class:`Pictures` read; ImageError names one that is missing."""
    if isinstance(paths, Pictures):
        return paths.sizes
    try:
        return np.array([os.stat(path).st_size for path in paths], dtype=np.int64)
    except OSError as error:
        raise ImageError(f"{error.filename}: {error.strerror}") from None


def content_at(paths: Sequence[Path], index: int) -> bytes | bytearray:
    """The file of a picture as it is; ImageError if it cannot be read."""
    try:
        return paths.read(index) if isinstance(paths, Pictures) else paths[index].read_bytes()
    except OSError as error:
        raise ImageError(f"{paths[index]}: {error.strerror}") from None


def read_at(paths: Sequence[str | Path], index: int, **reading: Any) -> Tensor:
    """One of several pictures, as :func:`read_image` gives it, whether they are files or :class:`Pictures`."""
    return read_image(paths[index], content=paths.read(index) if isinstance(paths, Pictures) else None, **reading)


def as_tensor(pixels: Pixels) -> Tensor:
    """(H, W, 3) as (3, H, W), channels-last in memory as before."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def resize(picture: Tensor, side: int, interpolation: str) -> Tensor:
    """(3, H, W) uint8 to (3, side, side), antialiased, without keeping the aspect ratio; bilinear or bicubic.

    The same as torchvision's ``v2.functional.resize``, which brings torch's compiler: a second of every prediction.
    """
    if picture.shape[-2:] == (side, side):
        return picture
    # Interpolation of bytes is exact to rounding on a CPU; elsewhere it is not there, or slow.
    fast = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")
    bytes_too = picture.device.type == "cpu" and (fast or interpolation == "bicubic")
    # The stride of the one picture in the batch, which torch takes for the order of the channels if it is not this.
    batch = picture.as_strided((1, *picture.shape), (picture.numel(), *picture.stride()))
    batch = batch if bytes_too else batch.float()
    resized = functional.interpolate(batch, (side, side), mode=interpolation, antialias=True)[0]
    return resized if bytes_too else resized.clamp_(0, 255).round_().to(torch.uint8)
