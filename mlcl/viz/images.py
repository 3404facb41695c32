"""Pictures, and attention maps over them."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from mlcl.viz.style import styled


@styled
def pictures(images: Sequence[ArrayLike], texts: Sequence[str] = (), columns: int = 4, side: float = 1.8) -> Figure:
    """A grid of pictures, each with its caption above it.

    Args:
        images: N of (H, W, 3) or (3, H, W), arrays or tensors, uint8 or float in [0, 1]; the sizes may differ.
        texts: N captions, long ones in several lines; or none.
        columns: of the grid.
        side: of a cell in inches.

    Raises:
        ValueError: if there is no picture, one has another shape, or the numbers of pictures and captions differ.
    """
    pixels = [_channels_last(image) for image in images]
    if not pixels or (texts and len(texts) != len(pixels)):
        raise ValueError(f"{len(pixels)} pictures and {len(texts)} captions: a caption for each of them, or none")
    columns, letters = min(columns, len(pixels)), round(11 * side)  # a caption has 11 letters per inch
    rows = math.ceil(len(pixels) / columns)
    filled = ["\n".join(textwrap.fill(line, letters) for line in text.splitlines()) for text in texts]
    lines = [max(text.count("\n") + 1 for text in filled[start:][:columns]) for start in range(0, len(filled), columns)]
    figure = Figure(figsize=(columns * side, rows * side + 0.16 * sum(lines)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, picture, text in zip(grid, pixels, filled or [""] * len(pixels), strict=False):
        axes.imshow(picture)
        axes.set_title(text, fontsize=9, pad=3)
    return figure


def captions(targets: ArrayLike, classes: Sequence[str]) -> list[str]:
    """The labels (N, K) of N pictures as text, such as "tree, moon", "tree, fish?" (unknown, -1) or "no label"."""
    marks = {1: "", -1: "?"}
    rows = (zip(classes, row, strict=True) for row in np.asarray(targets).tolist())
    named = (", ".join(f"{name}{marks[code]}" for name, code in row if code in marks) for row in rows)
    return [names or "no label" for names in named]


def _channels_last(image: ArrayLike) -> NDArray[np.generic]:
    pixels = np.asarray(image)
    if pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[-1]):
        raise ValueError(f"a picture is (H, W, 3) or (3, H, W), got {pixels.shape}")
    return pixels if pixels.shape[-1] == 3 else np.moveaxis(pixels, 0, -1)


def overlay(weights: ArrayLike) -> NDArray[np.uint8]:
    """An attention map (h, w), not negative, as a dark layer (h, w, 4) uint8 RGBA, clear at the highest weight."""
    values = np.asarray(weights, dtype=np.float64)
    share = values / max(float(values.max(initial=0)), 1e-12)
    layer = np.empty((*share.shape, 4), dtype=np.uint8)
    layer[..., :3] = (12, 14, 34)
    layer[..., 3] = np.rint(165 * (1 - share.clip(0, 1)))  # a heat map would hide what is under it
    return layer


def veiled(image: ArrayLike, weights: ArrayLike) -> NDArray[np.uint8]:
    """A picture, (H, W, 3) or (3, H, W) uint8, under the :func:`overlay` of attention weights (h, w): (H, W, 3)."""
    picture = Image.fromarray(_channels_last(image))
    layer = Image.fromarray(overlay(weights)).resize(picture.size, Image.Resampling.BILINEAR)
    return np.asarray(Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB"), dtype=np.uint8)


def outlined(image: ArrayLike, mask: ArrayLike, width: int = 2) -> NDArray[np.uint8]:
    """A picture, (H, W, 3) or (3, H, W) uint8, with the outline of a mask (H, W), ``width`` pixels wide: (H, W, 3)."""
    picture = np.array(_channels_last(image), dtype=np.uint8)
    layer = outline(mask, width)
    drawn = layer[..., 3] > 0
    picture[drawn] = layer[drawn][:, :3]
    return picture


def outline(mask: ArrayLike, width: int = 2) -> NDArray[np.uint8]:
    """The outline of a mask (H, W), inside it, bright with a dark edge: a layer (H, W, 4) uint8 RGBA."""
    inside = np.asarray(mask, dtype=bool)
    padded = np.pad(inside, 1)
    layer = np.zeros((*inside.shape, 4), dtype=np.uint8)
    bright = padded & ~binary_erosion(padded, iterations=width)
    dark = binary_dilation(padded) & ~padded
    layer[bright[1:-1, 1:-1]] = (255, 214, 10, 255)
    layer[dark[1:-1, 1:-1]] = (12, 14, 34, 255)
    return layer
