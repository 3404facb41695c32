"""One bar per class, one cell per pair of classes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mlcl.viz.style import BLUE, ORANGE, SOFT, shortened, single, styled

_PER_PANEL = 40  # bars, as many as fit on a screen
_WRITTEN = 20  # most classes of a heat map whose cells have room for numbers


@styled
def bars(
    values: ArrayLike,
    classes: Sequence[str],
    xlabel: str,
    title: str = "",
    form: str = "{:,.0f}",
    marks: ArrayLike | None = None,
    marks_label: str = "",
    sort: bool = True,
) -> Figure:
    """A bar for each class, the highest first; more than 40 in panels side by side.

    Args:
        values: (K,) at least 0, such as the AP in percent; NaN (no AP without positives) has no bar and comes last.
        classes: K names.
        xlabel: name and unit of the values.
        title: over the figure.
        form: format of the number beside each bar.
        marks: (K,) reference values, such as the AP of guessing: a short line across each bar.
        marks_label: their name in the legend.
        sort: by value; False keeps the given order.

    Raises:
        ValueError: if there are not as many values as classes, or none.
    """
    heights = np.asarray(values, dtype=np.float64)
    if heights.shape != (len(classes),) or not len(classes):
        raise ValueError(f"{heights.shape} values for {len(classes)} classes: give one for each")
    ranks = np.where(np.isnan(heights), np.inf, -heights) if sort else np.arange(len(heights))
    order = np.argsort(ranks, kind="stable")
    rows = math.ceil(len(order) / (count := math.ceil(len(order) / _PER_PANEL)))
    figure = Figure(figsize=(4.6 if count == 1 else 3.6 * count, 0.95 + 0.22 * rows), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, count, sharex=True, squeeze=False)[0]
    references = None if marks is None else np.asarray(marks, dtype=np.float64)
    for number, axes in enumerate(panels):
        shown = order[number * rows :][:rows]
        axes.barh(range(len(shown)), heights[shown], height=0.72, color=BLUE)
        ends = np.nan_to_num(heights if references is None else np.fmax(heights, references))  # right of bar and mark
        for place, k in enumerate(shown):
            text = "none" if np.isnan(heights[k]) else form.format(heights[k])
            axes.annotate(text, (ends[k], place), (4, 0), textcoords="offset points", va="center")
        if references is not None:
            places = np.arange(len(shown))
            axes.vlines(references[shown], places - 0.42, places + 0.42, color=ORANGE, label=marks_label)
        axes.set_yticks(range(len(shown)), [shortened(classes[k]) for k in shown])
        axes.set(ylim=(rows - 0.4, -0.6), xlabel=xlabel)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter("{x:,g}")
    panels[0].set_xlim(0, 1.16 * max(float(np.nan_to_num(heights).max()), 1e-9))  # room for the longest one's number
    if references is not None and marks_label:
        panels[0].legend(loc="lower right", handlelength=1)
    panels[0].set_title(title)
    return figure


@styled
def cooccurrence(difference: ArrayLike, classes: Sequence[str]) -> Figure:
    """Heat map of (K, K) share predicted minus share present: orange where too high, blue too low, NaN empty."""
    values = np.asarray(difference, dtype=np.float64)
    # Transparent at 0, so that light and dark grounds show through.
    colours = ((0, BLUE), (0.5, (BLUE, 0)), (0.5, (ORANGE, 0)), (1, ORANGE))
    figure, axes = _heat_map(values, classes, -1, "{:+.0f}", colours, "points too often (+) or too rarely (-)")
    axes.set(xlabel="predicted beside it", ylabel="present")
    return figure


@styled
def cooccurrence_share(share: ArrayLike, classes: Sequence[str]) -> Figure:
    """Heat map of the share (K, K), in [0, 1], of one class's images (row) that show another (column); NaN is empty."""
    values = np.array(share, dtype=np.float64)
    np.fill_diagonal(values, np.nan)
    figure, axes = _heat_map(values, classes, 0, "{:.0f}", ((0, (BLUE, 0)), (1, BLUE)), "percent of the row's images")
    axes.set(xlabel="is there, too", ylabel="of the images with")
    if len(classes) <= _WRITTEN:
        for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
            text = f"{100 * values[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    return figure


def _heat_map(
    values: NDArray[np.float64], classes: Sequence[str], lowest: int, form: str, colours: Any, label: str
) -> tuple[Figure, Axes]:
    """Colours from ``lowest`` (-1 or 0) times the largest absolute value up to that value."""
    high = max(0.05, float(np.nan_to_num(np.abs(values)).max(initial=0)))
    side = max(3.6, (0.3 if len(classes) <= 20 else 0.21) * len(classes) + 1.4)
    figure, axes = single(side + 0.6, side)
    colourmap = LinearSegmentedColormap.from_list("", colours).with_extremes(bad=(0.5, 0.5, 0.5, 0.25))
    shown = axes.imshow(values, cmap=colourmap, vmin=lowest * high, vmax=high, interpolation="none")
    bar = figure.colorbar(
        shown, ax=axes, shrink=0.7, label=label, format=lambda value, _: form.format(100 * value) if value else "0"
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    ticks, names = range(len(classes)), [shortened(name) for name in classes]
    axes.set_xticks(ticks, names, rotation=90)
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0)
    axes.spines[:].set(color=SOFT, visible=True)
    return figure, axes
