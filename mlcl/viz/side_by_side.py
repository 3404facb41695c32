"""Figures that compare: projections and distances of several models, a picture under where a class looked."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mlcl.viz.embeddings import _central, _name_groups
from mlcl.viz.images import overlay
from mlcl.viz.style import BLUE, GREEN, ORANGE, SOFT, class_colours, shortened, styled

if TYPE_CHECKING:  # with torch
    from mlcl.embeddings import ClassDistances


@styled
def projections(panels: Mapping[str, tuple[ArrayLike, ArrayLike]], classes: Sequence[str]) -> Figure:
    """2-D projections side by side, a class in the same colour in all of them.

    Args:
        panels: title to points (R, 2) and the class of each (R,), integer.
        classes: K names.
    """
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    colours = class_colours(len(classes))
    grid: Sequence[Axes] = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (points, labels)) in zip(grid, panels.items(), strict=True):
        places, owners = np.asarray(points, dtype=np.float64), np.asarray(labels)
        size = float(np.clip(9000 / max(1, len(places)), 6, 30))
        shown = np.random.default_rng(0).permutation(len(places))  # else the last class would lie on top of all
        axes.scatter(
            places[shown, 0], places[shown, 1], s=size, c=[colours[k] for k in owners[shown]], alpha=0.8, linewidths=0
        )
        _name_groups(axes, {int(k): _central(places[owners == k]) for k in np.unique(owners)}, classes)
        axes.set(xticks=[], yticks=[])
        axes.set_title(title)
        axes.spines[:].set_color(SOFT)
        axes.spines[:].set_visible(True)
    return figure


@styled
def class_distances(tables: Mapping[str, "ClassDistances"], classes: Sequence[str]) -> Figure:
    """Mean cosine distances of each class, a panel for each model: what is wanted is blue left, orange and green right.

    Args:
        tables: title to what :func:`mlcl.embeddings.distances` found; a distance that is NaN has no mark.
        classes: K names.
    """
    figure = Figure(figsize=(1.2 + 3.6 * len(tables), 1.5 + 0.24 * len(classes)), layout="constrained")
    grid: Sequence[Axes] = figure.subplots(1, len(tables), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, table) in zip(grid, tables.items(), strict=True):
        kinds = [(table.intra, "same class", BLUE, "o"), (table.inter, "other classes", ORANGE, "s")]
        kinds.append((table.absent, "same class where it is absent", GREEN, "D"))
        every = np.stack([values for values, *_ in kinds])
        low, high = np.nan_to_num(every, nan=np.inf).min(0), np.nan_to_num(every, nan=-np.inf).max(0)
        some = np.isfinite(low)
        axes.hlines(np.flatnonzero(some), low[some], high[some], color=SOFT, linewidth=1)
        for values, label, colour, marker in kinds:
            if not np.isnan(values).all():
                axes.plot(values, range(len(classes)), marker, color=colour, markersize=5, linestyle="", label=label)
        axes.set(xlabel="mean cosine distance", ylim=(len(classes) - 0.4, -0.6))
        axes.set_title(title)
    grid[0].set_xlim(left=0)
    grid[0].set_yticks(range(len(classes)), [shortened(name) for name in classes])
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2)
    return figure


def veiled(image: ArrayLike, weights: ArrayLike) -> NDArray[np.uint8]:
    """The pixels of a picture under the veil of an attention map, for a grid such as :func:`mlcl.viz.pictures`.

    Args:
        image: (H, W, 3) or (3, H, W), an array or a tensor, uint8.
        weights: (h, w) of one class, such as ``prediction.attention[n, k]``.

    Returns:
        (H, W, 3) uint8: clear where the class looked most, dark where it did not look.
    """
    pixels = np.asarray(image)
    whole = Image.fromarray(pixels if pixels.shape[-1] == 3 else np.moveaxis(pixels, 0, -1))
    veil = Image.fromarray(overlay(weights)).resize(whole.size, Image.Resampling.BILINEAR)
    return np.asarray(Image.alpha_composite(whole.convert("RGBA"), veil).convert("RGB"), dtype=np.uint8)
