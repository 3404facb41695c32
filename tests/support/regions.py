"""Where objects are, by plain loops over pixels; and annotation files that say so."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def looped_cells(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) share of each cell that a mask covers, in 255ths, half up: pixel by pixel, in fractions."""
    (height, width), (h, w) = mask.shape, grid
    shares = np.zeros(grid, dtype=np.uint8)
    for i in range(h):
        for j in range(w):
            top, bottom, left, right = (
                Fraction(k * side, cells)
                for side, cells, first in ((height, h, i), (width, w, j))
                for k in (first, first + 1)
            )
            area = Fraction(0)
            for y in range(height):
                for x in range(width):
                    if mask[y, x]:
                        down, across = min(y + 1, bottom) - max(y, top), min(x + 1, right) - max(x, left)
                        area += max(down, Fraction(0)) * max(across, Fraction(0))
            shares[i, j] = math.floor(255 * area / ((bottom - top) * (right - left)) + Fraction(1, 2))
    return shares


def looped_near(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) whether a covered pixel's centre lies at most 15 pixels from that of a cell, in fractions."""
    (height, width), (h, w), half = mask.shape, grid, Fraction(1, 2)
    near = np.zeros(grid, dtype=bool)
    for i in range(h):
        for j in range(w):
            y0, x0 = (i + half) * height / h, (j + half) * width / w
            near[i, j] = any(
                mask[y, x] and (y + half - y0) ** 2 + (x + half - x0) ** 2 <= 225
                for y in range(height)
                for x in range(width)
            )
    return near


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts, pixel by pixel: down each column, first those outside."""
    counts, inside = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != inside:
                counts.append(0)
                inside = not inside
            counts[-1] += 1
    return counts


def filled(height: int, width: int, *boxes: Sequence[int]) -> np.ndarray:
    """A mask with these rectangles (top, bottom, left, right), ends not included."""
    mask = np.zeros((height, width), dtype=bool)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def voc_xml(width: int, height: int, objects: Sequence[tuple[Any, ...]], more: str = "") -> str:
    """An annotation file of VOC; an object is a name, xmin, ymin, xmax, ymax, and whether it is difficult."""
    parts = [
        f"<object><name>{name}</name><difficult>{int(bool(difficult))}</difficult>{more}<bndbox><xmin>{left}</xmin>"
        f"<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom, *difficult in objects
    ]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(parts)}</annotation>"


def write_boxes(devkit: Path, boxes: dict[str, Sequence[tuple[Any, ...]]], width: int = 40, height: int = 30) -> None:
    """``Annotations/<id>.xml`` for each image id."""
    (devkit / "Annotations").mkdir(exist_ok=True)
    for name, objects in boxes.items():
        (devkit / "Annotations" / f"{name}.xml").write_text(voc_xml(width, height, objects))
