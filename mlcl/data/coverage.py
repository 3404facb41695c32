"""Which cells of an attention map the objects of a class cover: computed once from masks and boxes, kept on disk."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mlcl.data.decoding import ImageError, read_size
from mlcl.data.labels import PRESENT
from mlcl.data.regions import Region, check_rasteriser, union
from mlcl.data.row_file import cache_folder, no_cache, open_or_write, read_rows, with_progress, write_rows
from mlcl.errors import MlclError
from mlcl.system.console import say

NEAR = 15  # pixels, as in the pointing game (Zhang et al., IJCV 2018, section 4.2)
_FORMAT = 1  # to be raised when another content is written for the same objects
_BATCH = 16  # images per message from a process that computes
_KEPT, _NO_REGION, _OTHER_SIZE, _UNREADABLE = range(4)  # what became of a pair
_WINDOW = 2 * NEAR + 1  # pixels whose centres can lie that near to a point, in each direction

Size = tuple[int, int]  # height and width
Extent = tuple[slice, slice]  # rows and columns


@dataclass(frozen=True)
class Coverage:
    """Where the objects of R pairs of image and class lie, on the h x w cells of an attention map.

    The network sees a picture as a square, whatever its shape, so the cells divide the original evenly: cell (i, j) of
    H x W pixels holds the rows i H/h to (i + 1) H/h and the columns j W/w to (j + 1) W/w.
    """

    rows: NDArray[np.int64]  # (R,) image: its row in the split, ascending
    classes: NDArray[np.int64]  # (R,) class, ascending within an image
    area: NDArray[np.float32]  # (R,) pixels, in the original picture, of the largest object of the class in the image
    cells: NDArray[np.uint8]  # (R, h, w) share of each cell that the class's objects cover, 255 = all of it
    near_bits: NDArray[np.uint8]  # (R, ceil(h w / 8)) what near_of unpacks
    notes: tuple[str, ...] = ()  # how many present classes and images are left out, and why

    def near_of(self, pairs: Any) -> NDArray[np.bool_]:
        """(n, h, w) whether a cell's centre is within 15 pixels of the original picture of an object's pixel's centre.

        Args:
            pairs: a slice, numbers or a boolean mask of the R pairs.
        """
        h, w = self.cells.shape[1:]
        bits = np.unpackbits(self.near_bits[pairs], axis=-1, count=h * w)
        return bits.reshape(-1, h, w).astype(bool)


def open_coverage(data: Any, split: str, grid: Size) -> Coverage:
    """See :meth:`mlcl.data.base.MultiLabelDataModule.coverage`; if there is no file of it, one process writes it."""
    if split not in data.splits:
        raise MlclError(f"{type(data).__name__} at {data.root} has no {split} images")
    if min(grid) < 1:
        raise MlclError(f"a map of {grid[0]} x {grid[1]} cells covers nothing")
    samples, none = data.splits[split], f"{type(data).__name__} at {data.root} has no masks or boxes"
    regions = data.read_regions(samples.source, samples.paths)
    if regions is None:
        raise MlclError(none)
    present = samples.targets == PRESENT
    images, classes = np.divmod(np.flatnonzero(present), present.shape[1])  # three times as fast as np.nonzero
    folder = Path(data.cache_dir) if data.cache_dir else cache_folder() / "coverage"
    largest = data.reading.get("max_pixels")
    digest = hashlib.blake2b(repr((_FORMAT, regions.key, grid, largest, os.path.abspath(data.root))).encode())
    digest.update(np.packbits(present).tobytes())
    digest.update("\n".join(map(str, samples.paths)).encode(errors="surrogateescape"))
    path, row, fresh = folder / f"{digest.hexdigest()[:24]}.npy", _row(grid), False

    def opened() -> tuple[NDArray[Any], NDArray[np.uint8]]:
        rows = read_rows(path, len(images))
        if rows.dtype != row:
            raise ValueError(f"{path} holds other maps")
        state, written = np.array(rows["state"]), path.stat().st_mtime_ns
        left_out = images[(state == _OTHER_SIZE) | (state == _UNREADABLE)]
        if not fresh and any(_changed_since(samples.paths[image], written) for image in np.unique(left_out)):
            raise ValueError(f"{path} was written before pictures were repaired")
        return rows, state

    def write() -> None:
        nonlocal fresh
        fresh = True  # also if the clock of the pictures' disk is ahead
        found = regions.read()
        if not any(found):
            raise MlclError(f"{none} of the classes in its {split} images")
        check_rasteriser(found)
        maps = _Maps(samples.paths, present, found, grid, largest)
        what = f"a cache of where the objects of {len(maps):,} pictures are, on {grid[0]} x {grid[1]} cells,"
        write_rows(path, row, len(images), _computed(maps, data.workers), what, instead="")

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        rows, state = open_or_write(path, opened, write)
    except OSError as error:
        raise no_cache(folder, error, "coverage", instead="") from error
    kept, notes = state == _KEPT, _notes(split, state, images)
    for line in notes:
        say(f"warning: {line}")
    rows, images, classes = (rows, images, classes) if kept.all() else (rows[kept], images[kept], classes[kept])
    return Coverage(images, classes, np.array(rows["area"]), rows["cells"], rows["near"], notes)


def _changed_since(path: Path, then: int) -> bool:
    """Whether a file was written, or put in its place, after a time in ns."""
    try:
        return os.stat(path).st_ctime_ns > then
    except OSError:
        return False


def _notes(split: str, state: NDArray[np.uint8], images: NDArray[np.int64]) -> tuple[str, ...]:
    other, unreadable = (len(np.unique(images[state == reason])) for reason in (_OTHER_SIZE, _UNREADABLE))
    left_out = "the localisation leaves them out"
    lines = {
        _OTHER_SIZE: f"{split}: {other:,} images have another size than their annotations say; {left_out}",
        _UNREADABLE: f"{split}: {unreadable:,} images cannot be opened; {left_out}",
        _NO_REGION: f"{split}: {(state == _NO_REGION).sum():,} of {len(state):,} present classes have no mask or box",
    }
    return tuple(line for reason, line in lines.items() if (state == reason).any())


def _row(grid: Size) -> np.dtype[Any]:
    bits = (math.prod(grid) + 7) // 8
    return np.dtype([("state", "u1"), ("area", "<f4"), ("cells", "u1", grid), ("near", "u1", (bits,))])


class _Maps(Dataset[NDArray[Any]]):
    """The rows of every image with a present class, one row per such class."""

    def __init__(
        self,
        paths: Sequence[Path],
        present: NDArray[np.bool_],
        regions: Sequence[Sequence[Region]],
        grid: Size,
        max_pixels: int | None,
    ) -> None:
        self.images = np.flatnonzero(present.any(1))
        self.paths, self.present, self.regions = paths, present, regions
        self.grid, self.max_pixels = grid, max_pixels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> NDArray[Any]:
        image = self.images[place]
        classes, regions = self.present[image].nonzero()[0], self.regions[image]
        rows = np.zeros(len(classes), dtype=_row(self.grid))
        try:
            size = read_size(self.paths[image], self.max_pixels)
        except ImageError:
            rows["state"] = _UNREADABLE
            return rows
        if any(region.size not in (None, size) for region in regions):
            rows["state"] = _OTHER_SIZE
            return rows
        for number, column in enumerate(classes):
            mask, rows["area"][number] = union([region for region in regions if region.column == column], *size)
            if not rows["area"][number]:
                rows["state"][number] = _NO_REGION
                continue
            extent = _extent(mask)
            rows["cells"][number] = covered(mask, self.grid, extent)
            rows["near"][number] = np.packbits(near(mask, self.grid, extent))
        return rows


def _computed(maps: _Maps, workers: int) -> Iterator[NDArray[Any]]:
    # A generator of its own: whether a cache is written must not change the random numbers of the training.
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(maps, _BATCH, num_workers=workers, collate_fn=np.concatenate, generator=generator)
    yield from with_progress(loader, "coverage")


def covered(mask: NDArray[np.bool_], grid: Size, extent: Extent) -> NDArray[np.uint8]:
    """The share of each cell of ``grid`` that a mask (H, W), which is false outside ``extent``, covers: (h, w).

    It is rounded to 255ths, half up. In units of 1/h x 1/w pixels all areas are whole numbers, so the sums are exact.
    """
    whole, (rows, columns) = mask.size, extent  # in these units, each cell has the area H W
    exact = torch.float32 if whole < 2**24 else torch.float64
    down, across = (_overlaps(side, cells, exact) for side, cells in zip(mask.shape, grid, strict=True))
    # torch, not NumPy, whose BLAS would start threads in every loader process.
    part = torch.from_numpy(np.ascontiguousarray(mask[rows, columns].T)).to(exact)
    areas = (across[:, columns] @ part @ down[:, rows].T).to(torch.int64).numpy().T
    shares: NDArray[np.uint8] = ((2 * 255 * areas + whole) // (2 * whole)).astype(np.uint8)
    return shares


def near(mask: NDArray[np.bool_], grid: Size, extent: Extent) -> NDArray[np.bool_]:
    """(h, w) whether the centre of a cell is at most 15 pixels from the centre of a pixel of a mask (H, W)."""
    found = np.zeros(grid, dtype=bool)
    padded = np.pad(mask[extent], _WINDOW - 1)
    *starts, disc = _discs(*mask.shape, grid)
    # Only windows that reach the object's extent, in which they begin at 0 if their last pixel is its first.
    begins = [start - side.start + _WINDOW - 1 for start, side in zip(starts, extent, strict=True)]
    reach = [(begin >= 0) & (begin + _WINDOW <= size) for begin, size in zip(begins, padded.shape, strict=True)]
    top, left = (begin[close] for begin, close in zip(begins, reach, strict=True))
    cells = np.ix_(*reach)
    windows = sliding_window_view(padded, (_WINDOW, _WINDOW))[top[:, None], left]
    found[cells] = (windows & disc[cells]).any((2, 3))
    return found


def _extent(mask: NDArray[np.bool_]) -> Extent:
    """The rows and columns between a mask's first and last; most objects are small."""
    columns = np.flatnonzero(mask.any(0))
    across = slice(int(columns[0]), int(columns[-1]) + 1) if columns.size else slice(0, 0)
    rows = np.flatnonzero(mask[:, across].any(1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0), across


@lru_cache(maxsize=64)
def _overlaps(side: int, cells: int, exact: torch.dtype) -> Tensor:
    """(cells, side) length that each cell and each pixel have in common, in units of 1/cells pixel."""
    pixel, cell = np.arange(side) * cells, np.arange(cells)[:, None] * side
    common = np.minimum(pixel + cells, cell + side) - np.maximum(pixel, cell)
    return torch.from_numpy(np.maximum(common, 0)).to(exact)


@lru_cache(maxsize=64)  # pictures have few sizes
def _discs(height: int, width: int, grid: Size) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Around each cell's centre: first row and column of a window, and which of its pixels are near enough.

    In units of 1/2h and 1/2w pixels all centres are whole numbers, so that 15 pixels are neither more nor less.
    """
    starts, distances = [], []
    for side, cells in zip((height, width), grid, strict=True):
        centre = (2 * np.arange(cells) + 1) * side
        start = -((_WINDOW * cells - centre) // (2 * cells))  # rounded up
        pixels = start[:, None] + np.arange(_WINDOW)
        starts.append(start)
        distances.append((2 * pixels + 1) * cells - centre[:, None])
    h, w = grid
    down, across = (distances[0] * w) ** 2, (distances[1] * h) ** 2
    disc = down[:, None, :, None] + across[None, :, None, :] <= (2 * NEAR * h * w) ** 2
    return starts[0], starts[1], disc
