"""Per-class gains as a figure: one panel for each method, bars with the interval of the bootstrap."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from mlcl.comparison.outcome import LEVEL, Comparison, Gain
from mlcl.viz.pages import clean

_BETTER, _WORSE, _UNDECIDED = "#3b82c4", "#d0702c", "#9aa1a9"  # blue and orange are told apart by everyone
_INK = "#000000"  # the page turns it into its text colour


def per_class_gains(comparison: Comparison, methods: Sequence[str] | None = None, limit: int = 30) -> Figure:
    """Horizontal bars, highest gain first; a line is the 95 % interval over resampled images and runs.

    Each of ``methods`` (by default all but the baseline) has a panel; the order of the classes and the axis are those
    of all methods together. Class names are cut to ``limit`` letters; classes without AP have no bar.
    """
    gains = {result.name: result.gain for result in comparison.results if result.gain is not None}
    mean = torch.stack([gain.class_values for gain in gains.values()]).mean(0)
    order = [k for k in mean.argsort().tolist() if comparison.measured[k]]  # lowest first: barh begins at the bottom
    methods = list(gains) if methods is None else methods
    figure = Figure(figsize=(2 + 3.6 * len(methods), 1.3 + 0.2 * len(order)), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, methods, strict=True):
        _panel(axes, gains[name], order)
        axes.set_xlim(*_bounds(list(gains.values()), order))
        axes.set_title(_short(name, 40), fontsize=10)
        axes.set_xlabel(f"AP gain over {_short(comparison.results[0].name, 24)} (points)", fontsize=9)
    panels[0].set_yticks(range(len(order)), [_short(clean(comparison.classes[k]), limit) for k in order], fontsize=8)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class may be named $x$
    return figure


def caption(comparison: Comparison) -> str:
    """How the figure is to be read, and how much of it is chance."""
    counted = sum(comparison.measured)
    return (
        "Bars: difference in AP, mean over runs. Lines: 95 % interval over resampled images and runs. Blue: above 0, "
        f"orange: below 0, grey: 0 lies within. Of {counted} classes without any difference, about "
        f"{max(1, round(counted * (1 - LEVEL)))} would be coloured by chance."
    )


def alternative(comparison: Comparison, methods: Sequence[str] | None = None) -> str:
    """The figure in words."""
    gains = [
        f"{result.name}: {_in_words(comparison, result.gain)}"
        for result in comparison.results
        if result.gain is not None and (methods is None or result.name in methods)
    ]
    return f"Bars of the AP gain of each class over {comparison.results[0].name}, in points. {' '.join(gains)}"


def _in_words(comparison: Comparison, gain: Gain) -> str:
    above, below = int((gain.class_low > 0).sum()), int((gain.class_high < 0).sum())
    ranked = [k for k in gain.class_values.argsort().tolist() if comparison.measured[k]]
    least, most = (f"{comparison.classes[k]} ({100 * gain.class_values[k]:+.1f})" for k in (ranked[0], ranked[-1]))
    return f"above 0 for {above} of {len(ranked)} classes, below 0 for {below}; most {most}, least {least}."


def _panel(axes: Axes, gain: Gain, order: list[int]) -> None:
    values, low, high = (100 * part[order] for part in (gain.class_values, gain.class_low, gain.class_high))
    colours = [_BETTER if a > 0 else _WORSE if b < 0 else _UNDECIDED for a, b in zip(low, high, strict=True)]
    places = range(len(order))
    axes.barh(places, values.tolist(), height=0.7, color=colours)
    axes.hlines(places, low.tolist(), high.tolist(), color=_INK, linewidth=0.9)
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.grid(axis="x", color=_INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylim(-0.8, len(order) - 0.2)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, labeltop=len(order) > 30)  # else far from the upper bars
    axes.spines[["top", "right", "left"]].set_visible(False)


def _bounds(gains: Sequence[Gain], order: list[int]) -> tuple[float, float]:
    low = min(0.0, *(100 * float(gain.class_low[order].min()) for gain in gains))
    high = max(0.0, *(100 * float(gain.class_high[order].max()) for gain in gains))
    margin = max(0.1, 0.03 * (high - low))
    return low - margin, high + margin


def _short(name: str, limit: int) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}\u2026"
