"""One bar per class, one cell per pair of classes."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mlcl.viz.style import BLUE, ORANGE, SOFT, shortened, single, styled

_PER_PANEL = 40  # bars: more in one column take more than a screen
_WRITTEN = 20  # classes of a heat map: of more, numbers do not fit into its cells


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
        values: (K,) from 0 upwards, such as the AP in percent or the number of images. NaN (no AP without positives)
            has no bar and comes last.
        classes: K names.
        xlabel: what the values are, and their unit.
        title: over the figure.
        form: of the number beside each bar.
        marks: (K,) what to compare with, such as the AP of guessing: a short line across each bar.
        marks_label: what they are, for the legend.
        sort: or leave them in their order, where they are not classes, such as numbers of labels.

    Raises:
        ValueError: if there are not as many values as classes, or none.
    """
    heights = np.asarray(values, dtype=np.float64)
    if heights.shape != (len(classes),) or not len(classes):
        raise ValueError(f"{heights.shape} values for {len(classes)} classes: one for each is needed")
    ranks = np.where(np.isnan(heights), np.inf, -heights) if sort else np.arange(len(heights))
    order = np.argsort(ranks, kind="stable")
    rows = math.ceil(len(order) / (count := math.ceil(len(order) / _PER_PANEL)))
    figure = Figure(figsize=(4.6 if count == 1 else 3.6 * count, 0.95 + 0.22 * rows), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, count, sharex=True, squeeze=False)[0]
    references = None if marks is None else np.asarray(marks, dtype=np.float64)
    for number, axes in enumerate(panels):
        shown = order[number * rows :][:rows]
        axes.barh(range(len(shown)), heights[shown], height=0.72, color=BLUE)
        # Behind the mark, where that is the longer of the two.
        ends = np.nan_to_num(heights if references is None else np.fmax(heights, references))
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
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panels[0].set_xlim(0, 1.16 * max(float(np.nan_to_num(heights).max()), 1e-9))  # room for the longest one's number
    if references is not None and marks_label:
        panels[0].legend(loc="lower right", handlelength=1)
    panels[0].set_title(title)
    return figure


@styled
def cooccurrence(difference: ArrayLike, classes: Sequence[str]) -> Figure:
    """Heat map of (share predicted minus share present), orange where too much and blue where too little.

    Args:
        difference: (K, K), from :attr:`mlcl.analysis.CoOccurrence.difference`; NaN stays empty.
        classes: K names; rows are the class that is present, columns the one that is predicted with it.
    """
    values = np.asarray(difference, dtype=np.float64)
    bound = max(0.05, float(np.nan_to_num(np.abs(values)).max(initial=0)))
    figure, axes, shown = _heat_map(values, classes, _diverging(), -bound, bound)
    axes.set(xlabel="predicted beside it", ylabel="present")
    label = "points too often (+) or too rarely (-)"
    _colour_bar(figure, axes, shown, label, lambda value, _: f"{100 * value:+.0f}" if value else "0")
    return figure


@styled
def cooccurrence_share(share: ArrayLike, classes: Sequence[str]) -> Figure:
    """Heat map of the share of the images of one class in which another one is present, too; in percent.

    Args:
        share: (K, K) in [0, 1]: ``present / images`` of :class:`mlcl.analysis.CoOccurrence`. NaN stays empty, and so
            does the diagonal, which is 1. Up to 20 classes, each cell holds its number.
        classes: K names; rows are the class that is given, columns the one beside it.
    """
    values = np.array(share, dtype=np.float64)
    np.fill_diagonal(values, np.nan)
    bound = max(0.05, float(np.nan_to_num(values).max(initial=0)))
    figure, axes, shown = _heat_map(values, classes, _rising(), 0, bound)
    axes.set(xlabel="is there, too", ylabel="of the images with")
    if len(classes) <= _WRITTEN:
        for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
            text = f"{100 * values[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    _colour_bar(figure, axes, shown, "percent of the row's images", lambda value, _: f"{100 * value:.0f}")
    return figure


def _heat_map(
    values: NDArray[np.float64], classes: Sequence[str], colours: Colormap, low: float, high: float
) -> tuple[Figure, Axes, AxesImage]:
    side = max(3.6, (0.3 if len(classes) <= 20 else 0.21) * len(classes) + 1.4)
    figure, axes = single(side + 0.6, side)
    shown = axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="none")
    ticks, names = range(len(classes)), [shortened(name) for name in classes]
    axes.set_xticks(ticks, names, rotation=90)
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(SOFT)
    return figure, axes, shown


def _colour_bar(figure: Figure, axes: Axes, shown: AxesImage, label: str, form: Any) -> None:
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, format=form)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label(label)


def _diverging() -> Colormap:
    """Blue over nothing to orange: the middle shows the ground, whatever its colour."""
    ends = [mpl.colors.to_rgb(BLUE), mpl.colors.to_rgb(ORANGE)]
    steps = np.linspace(-1, 1, 129)
    return _over_ground([(*ends[int(step > 0)], abs(step) ** 0.8) for step in steps])


def _rising() -> Colormap:
    """Nothing to blue."""
    return _over_ground([(*mpl.colors.to_rgb(BLUE), step**0.8) for step in np.linspace(0, 1, 129)])


def _over_ground(table: list[tuple[float, ...]]) -> Colormap:
    return ListedColormap(table).with_extremes(bad=(0.5, 0.5, 0.5, 0.25))
