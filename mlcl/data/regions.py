"""Where the objects of a picture are: masks and boxes as datasets give them, checked before anything is drawn."""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlcl.data.coco_file import Entry, load, selected
from mlcl.data.file_names import short
from mlcl.errors import MlclError

_MOST_PIXELS = 2**31  # of a picture; no file that is read has more, and an outline is drawn in 32-bit numbers
_FARTHEST = 10**6  # pixels: how far away a point, and how long an outline may be
_NO_MASKS = "localisation of COCO masks needs pycocotools: pip install pycocotools"


class Region(NamedTuple):
    """Where one object is, in pixels of the upright picture."""

    column: int  # of its class
    size: tuple[int, int] | None = None  # height and width of the picture, as far as the annotation says
    outlines: tuple[NDArray[np.float64], ...] = ()  # each x1, y1, x2, y2, ...; all of them together
    runs: NDArray[np.uint32] | None = None  # column by column: so many pixels outside, inside, outside, ...
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom (not included), where there is no mask


@dataclass(frozen=True)
class Regions:
    """What a dataset knows of the objects of some pictures."""

    key: Any  # changes with all that changes the objects
    read: Callable[[], list[list[Region]]]  # the objects of each picture; it may take long


def _rasteriser() -> Any:
    """pycocotools.mask, without which everything else works."""
    try:
        from pycocotools import mask
    except ImportError:
        raise MlclError(_NO_MASKS) from None
    return mask


def union(regions: Iterable[Region], height: int, width: int) -> tuple[NDArray[np.bool_], int]:
    """(height, width) whether a pixel is one of these objects', in column-major order, and the largest one's pixels.

    A mask without a pixel, or an outline that encloses none, counts with its box.
    """
    mask, largest, drawn = np.zeros((width, height), dtype=bool).T, 0, []
    for region in regions:
        area = 0
        if region.outlines:
            masks = _rasteriser()
            drawn.append(masks.merge(masks.frPyObjects([one.tolist() for one in region.outlines], height, width)))
            area = int(masks.area(drawn[-1]))
        elif region.runs is not None:
            area = int(region.runs[1::2].sum())
            mask |= _spread(region.runs, height, width)
        if not area and region.box is not None:
            left, top, right, bottom = (max(0, side) for side in region.box)
            touched = mask[top:bottom, left:right]
            touched[...], area = True, touched.size
        largest = max(largest, area)
    if drawn:  # pycocotools.mask.decode takes three times as long or more
        mask |= _spread(uncompressed(_rasteriser().merge(drawn)["counts"]), height, width)
    return mask, largest


def _spread(runs: Any, height: int, width: int) -> NDArray[np.bool_]:
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def check_rasteriser(found: Iterable[Iterable[Region]]) -> None:
    """Raise MlclError if there are outlines to draw, but pycocotools is not there."""
    if any(region.outlines for regions in found for region in regions):
        _rasteriser()


def state_of(file: Path) -> tuple[str, int, int]:
    """What changes with a file: its place, size and modification time; zeros if it is not there."""
    try:
        state = file.stat()
    except OSError:
        return os.path.abspath(file), 0, 0
    return os.path.abspath(file), state.st_size, state.st_mtime_ns


def of_coco(
    annotations: Path,
    listed: Callable[[], Sequence[Path]],
    classes: Sequence[str],
    paths: Sequence[Path],
    min_area: float = 0,
    crowd: str = "keep",
) -> Regions:
    """The objects of pictures according to a COCO annotation file: polygons, runs (RLE), or else boxes.

    Args:
        annotations: the file.
        listed: gives the paths of all of its images, in the order of :attr:`mlcl.data.coco_file.Content.images`.
        classes: names; the objects of others are left out.
        paths: of the pictures.
        min_area: see :func:`mlcl.data.coco_file.selected`.
        crowd: the same.

    Raises:
        MlclError: on reading, for a file that is not COCO's, and for a mask or a box that cannot be.
    """

    def read() -> list[list[Region]]:
        content, pictures, wanted = load(annotations), listed(), set(paths)
        sizes = [_size(entry, annotations) for entry in content.images]
        found: dict[Path, list[Region]] = defaultdict(list)
        for row, column, entry in selected(content, classes, min_area, crowd):
            if pictures[row] in wanted:
                place = f"{annotations}: annotation {short(str(entry.get('id')))}"
                if region := _region(entry, column, sizes[row], place):
                    found[pictures[row]].append(region)
        return [found.get(path, []) for path in paths]

    return Regions(("coco", state_of(annotations), tuple(classes), min_area, crowd), read)


def _size(entry: Entry, annotations: Path) -> tuple[int, int] | None:
    """Height and width of a picture, if its entry has them."""
    height, width = entry.get("height"), entry.get("width")
    if height is None or width is None:
        return None
    if not all(isinstance(side, int | float) and side >= 1 and side % 1 == 0 for side in (height, width)):
        said = short(f"{width!r} x {height!r}")
        where = f"{annotations}: image {short(str(entry['id']))}"
        raise MlclError(f"{where}: width x height is {said}; correct or delete them")
    return int(height), int(width)


def _region(entry: Entry, column: int, size: tuple[int, int] | None, place: str) -> Region | None:
    mask, box = entry.get("segmentation"), _box(entry.get("bbox"), place)
    if isinstance(mask, dict):
        runs, own = _runs(mask, place)
        if size is not None and size != own:
            raise MlclError(f"{place}: its mask is of {own[1]} x {own[0]} pixels, its image of {size[1]} x {size[0]}")
        return Region(column, own, runs=runs, box=box)
    outlines = _outlines(mask or [], place)
    return Region(column, size, outlines, box=box) if outlines or box else None


def _box(box: Any, place: str) -> tuple[int, int, int, int] | None:
    """COCO's x, y, width, height as left, top, right, bottom of the pixels that the box touches."""
    if not box:
        return None
    numbers = _numbers(box)
    if numbers is None or len(numbers) != 4 or (numbers[2:] < 0).any() or (np.abs(numbers) > _FARTHEST).any():
        raise MlclError(f"{place}: bbox is {short(repr(box))}, it must be x, y, width, height in pixels")
    x, y, width, height = numbers.tolist()
    return math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height)


def _outlines(mask: Any, place: str) -> tuple[NDArray[np.float64], ...]:
    """Polygons, without those of two points or less, which enclose nothing."""
    outlines = []
    for outline in mask if isinstance(mask, list) else [mask]:
        numbers = _numbers(outline)
        if numbers is None or len(numbers) % 2:
            raise MlclError(f"{place}: segmentation holds {short(repr(outline))}, a polygon is a list x, y, x, y, ...")
        points = numbers.reshape(-1, 2)
        length = np.abs(points[1:] - points[:-1]).max(1, initial=0).sum()  # the way back is no longer than that
        if np.abs(numbers).max(initial=0) > _FARTHEST or length > _FARTHEST:
            raise MlclError(f"{place}: segmentation holds a polygon with more than {_FARTHEST:,} pixels to draw")
        if len(numbers) >= 6:
            outlines.append(numbers)
    return tuple(outlines)


def _numbers(values: Any) -> NDArray[np.float64] | None:
    """A flat list of finite numbers; None for anything else."""
    if not isinstance(values, list):
        return None
    try:
        numbers = np.array(values)
    except ValueError:  # lists of several lengths
        return None
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iuf" and values) or not np.isfinite(numbers).all():
        return None
    return numbers.astype(np.float64)


def _runs(mask: Any, place: str) -> tuple[NDArray[np.uint32], tuple[int, int]]:
    """The run lengths of a mask, and its height and width."""
    size, counts = mask.get("size"), mask.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise MlclError(f"{place}: the size of its mask is {short(repr(size))}, it must be [height, width]")
    if size[0] * size[1] >= _MOST_PIXELS:
        raise MlclError(f"{place}: the size of its mask is {short(repr(size))}, which no picture has")
    runs = uncompressed(counts.encode("ascii", "replace")) if isinstance(counts, str) else _numbers(counts)
    if runs is None or (runs < 0).any() or (runs % 1 != 0).any() or runs.sum() != size[0] * size[1]:
        raise MlclError(f"{place}: the counts of its mask are no run lengths that sum to {size[0]} x {size[1]}")
    return runs.astype(np.uint32), (size[0], size[1])


def uncompressed(text: bytes) -> NDArray[np.int64] | None:
    """Run lengths from COCO's compressed form; None if they cannot be.

    Each character, less 48, holds 5 bits of a number, the lowest first; bit 6 says that more follow, the highest bit of
    the last is the sign. From the fourth on, a number is the difference to the run two before.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    starts = np.flatnonzero(np.concatenate([[True], codes[:-1] & 32 == 0]))
    lengths = np.diff(starts, append=codes.size)
    if lengths.max() > 7:  # 35 bits: longer than any mask
        return None
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[starts + lengths - 1] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
