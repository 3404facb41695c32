"""Figures of what a model says, for the report, notebooks and loggers: plain functions that return a Figure.

They open no window and change no setting of matplotlib. Black text on no background and mid-tone colours, so that a
page can put them on light and dark ground (``pages.svg``).
"""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mlcl.analysis import PRCurve, Reliability

BLUE, ORANGE, GREEN, PURPLE, RED = "#3a82c8", "#cf7420", "#2d9561", "#9467bd", "#cc5245"
LINES = (BLUE, ORANGE, GREEN, PURPLE, RED, "#8c7a5b")
_STYLE: Any = {  # font.size stays: ticks are made when drawn, with the settings of then
    **{"text.parse_math": False, "axes.titlesize": 11, "axes.spines.top": False},
    **{"axes.spines.right": False, "axes.linewidth": 0.8, "lines.linewidth": 1.6, "legend.frameon": False},
    **{"axes.titlelocation": "left", "figure.facecolor": "none", "axes.facecolor": "none"},
}
_SOFT = (0, 0, 0, 0.35)  # black with alpha: a page makes it the text colour, as grey on light as on dark
_P = ParamSpec("_P")


def _styled(function: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw with the style above, whatever the caller's settings are."""

    @wraps(function)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return function(*args, **kwargs)

    return inner


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


@_styled
def pr_curve(curve: PRCurve, base_rate: float, title: str = "") -> Figure:
    """Precision against recall of one class.

    Args:
        curve: from :func:`mlcl.analysis.pr_curve`; its point is marked.
        base_rate: share of positives, the precision of guessing; a dashed line.
        title: over the figure.
    """
    figure, axes = _axes(4.2, 3.2)
    keep = np.unique(np.linspace(0, len(curve.recall) - 1, min(400, len(curve.recall))).astype(int))
    axes.plot(curve.recall[keep], curve.precision[keep], color=BLUE)
    axes.axhline(base_rate, color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
    if curve.point:
        axes.plot(*curve.point, "o", color=ORANGE, markersize=8, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(title)
    return figure


@_styled
def reliability(results: Mapping[str, Reliability]) -> Figure:
    """Reliability diagram: share that came true against probability, and below how many entries lie where.

    Args:
        results: name of each curve, such as "temperature 1", to its numbers.
    """
    figure = Figure(figsize=(4.6, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
    for (name, result), colour in zip(results.items(), LINES, strict=False):
        filled = result.count > 0
        label = f"{name}: calibration error {result.error:.4f}"
        upper.plot(result.probability[filled], result.share[filled], "o-", color=colour, markersize=4, label=label)
        edges = np.linspace(0, 1, len(result.count) + 1)
        lower.stairs(result.count, edges, color=colour, linewidth=1.6)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share present")
    figure.legend(loc="outside upper left", handlelength=1.4)
    lower.set(xlabel="predicted probability", ylabel="entries", yscale="log")
    lower.set_ylim(bottom=0.8)
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    lower.minorticks_off()
    return figure


@_styled
def cooccurrence(difference: ArrayLike, classes: Sequence[str]) -> Figure:
    """Heat map of (share predicted minus share present), orange where too much and blue where too little.

    Args:
        difference: (K, K), from :attr:`mlcl.analysis.CoOccurrence.difference`; NaN stays empty.
        classes: K names; rows are the class that is present, columns the one that is predicted with it.
    """
    values = np.asarray(difference, dtype=np.float64)
    side = max(3.6, (0.3 if len(classes) <= 20 else 0.21) * len(classes) + 1.4)
    figure, axes = _axes(side + 0.6, side)
    bound = max(0.05, float(np.nan_to_num(np.abs(values)).max(initial=0)))
    shown = axes.imshow(values, cmap=_diverging(), vmin=-bound, vmax=bound, interpolation="none")
    ticks, names = range(len(classes)), [_short(name) for name in classes]
    axes.set_xticks(ticks, names, rotation=90)
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted beside it", ylabel="present")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(_SOFT)
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, format=lambda value, _: f"{100 * value:+.0f}" if value else "0")
    bar.outline.set_visible(False)
    bar.set_label("points too often (+) or too rarely (-)")
    return figure


@_styled
def lines(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], xlabel: str, ylabel: str, title: str = "", zero: bool = True
) -> Figure:
    """Training curves: lines over epochs or steps.

    Args:
        curves: name to x and y of equal length.
        xlabel: of the axis.
        ylabel: of the axis.
        title: over the figure.
        zero: whether the y axis starts at 0.
    """
    figure, axes = _axes(4.2, 3.0)
    handles = []
    for number, (x, y) in enumerate(curves.values()):
        style = "o-" if len(np.asarray(x)) <= 40 else "-"
        handles += axes.plot(x, y, style, color=LINES[number % len(LINES)], markersize=3)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y", color=(0, 0, 0, 0.12), linewidth=0.8)
    if zero:
        axes.set_ylim(bottom=0)
    if len(handles) > 1:
        axes.legend(handles, list(curves))
    return figure


@_styled
def embedding_scatter(points: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Figure:
    """A 2-D projection of embeddings, coloured and named by class.

    The dots of class k form a group ``class-<k>``, its name the group ``label-<k>`` (see ``pages.svg``).

    Args:
        points: (R, 2).
        labels: (R,) integer, the class of each row.
        classes: K names.
    """
    places, owners = np.asarray(points, dtype=np.float64), np.asarray(labels)
    figure, axes = _axes(7.4, 5.6)
    colours = class_colours(len(classes))
    size = float(np.clip(14000 / max(1, len(places)), 8, 36))
    for k in np.unique(owners):
        mine = places[owners == k]
        dots = axes.scatter(mine[:, 0], mine[:, 1], s=size, color=colours[k], alpha=0.85, linewidths=0)
        dots.set_gid(f"class-{k}")
    _name_groups(axes, {int(k): _central(places[owners == k]) for k in np.unique(owners)}, classes)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return figure


@_styled
def attention(image: ArrayLike, weights: ArrayLike, title: str = "") -> Figure:
    """Where a class looked, over the picture.

    Args:
        image: (H, W, 3) uint8 or float in [0, 1]; of any shape: the network saw it squeezed to a square.
        weights: (h, w) of one class, such as ``prediction.attention[n, k]``.
        title: over the figure.
    """
    pixels = np.asarray(image)
    figure, axes = _axes(4, max(1.0, min(6.0, 4 * pixels.shape[0] / pixels.shape[1])))
    height, width = pixels.shape[:2]
    axes.imshow(pixels)
    axes.imshow(overlay(weights), extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear")
    axes.set_title(title)
    axes.set_axis_off()
    return figure


def overlay(weights: ArrayLike) -> NDArray[np.uint8]:
    """An attention map as a dark veil to be stretched over the picture: clear where the class looked most.

    Args:
        weights: (h, w), not negative.

    Returns:
        (h, w, 4) uint8 RGBA; the opacity falls linearly to 0 at the highest weight, so equal weights leave no veil.
    """
    values = np.asarray(weights, dtype=np.float64)
    share = values / max(float(values.max(initial=0)), 1e-12)
    veil = np.empty((*share.shape, 4), dtype=np.uint8)
    veil[..., :3] = (12, 14, 34)
    veil[..., 3] = np.rint(165 * (1 - share.clip(0, 1)))  # a tinted layer would hide what the class looked at
    return veil


def class_colours(count: int) -> list[tuple[float, float, float]]:
    """As many hues, in two brightnesses that read on light and on dark ground."""
    return [_with_luminance(k / max(1, count), 0.19 if k % 2 else 0.36) for k in range(count)]


def _with_luminance(hue: float, luminance: float) -> tuple[float, float, float]:
    """The colour of this hue whose relative luminance (WCAG) is as given, found by halving."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        linear = (((c + 0.055) / 1.055) ** 2.4 for c in colorsys.hls_to_rgb(hue, middle, 0.7))
        bright = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) > luminance
        low, high = (low, middle) if bright else (middle, high)
    return colorsys.hls_to_rgb(hue, low, 0.7)


def _central(points: NDArray[np.float64]) -> tuple[float, float]:
    """The point nearest to the median: a name stands on its own class even where that has several groups."""
    nearest = np.square(points - np.median(points, axis=0)).sum(1).argmin()
    return float(points[nearest, 0]), float(points[nearest, 1])


def _name_groups(axes: Axes, centres: Mapping[int, tuple[float, float]], classes: Sequence[str]) -> None:
    """Write each class's name at its centre, or as far above or below as it takes to cover no other name."""
    axes.autoscale_view()
    taken: list[tuple[float, float, float]] = []  # x, y and width, in points
    for k, centre in centres.items():
        x, y = axes.transData.transform(centre) * 72 / axes.figure.dpi
        width = 6.5 * len(classes[k])
        for shift in sorted(range(-60, 61, 3), key=abs):
            near = (abs(x - a) < (width + w) / 2 and abs(y + shift - b) < 12 for a, b, w in taken)
            if not any(near):
                break
        taken.append((x, y + shift, width))
        text = axes.annotate(classes[k], centre, (0, shift), textcoords="offset points", fontweight="bold")
        text.set(ha="center", va="center", gid=f"label-{k}")


def _diverging() -> Colormap:
    """Blue over nothing to orange: the middle shows the ground, whatever its colour."""
    ends = [mpl.colors.to_rgb(BLUE), mpl.colors.to_rgb(ORANGE)]
    steps = np.linspace(-1, 1, 129)
    table = [(*ends[int(step > 0)], abs(step) ** 0.8) for step in steps]
    return ListedColormap(table).with_extremes(bad=(0.5, 0.5, 0.5, 0.25))


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
