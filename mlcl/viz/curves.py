"""Curves: precision and recall, reliability, training."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mlcl.analysis.evaluation import PRCurve, Reliability
from mlcl.viz.style import BLUE, LINES, ORANGE, SOFT, single, styled


@styled
def pr_curve(curve: PRCurve, base_rate: float, title: str = "") -> Figure:
    """Precision against recall of one class, its threshold marked; the share of positives is a dashed line."""
    figure, axes = single(4.2, 3.2)
    keep = np.unique(np.linspace(0, len(curve.recall) - 1, min(400, len(curve.recall))).astype(int))
    axes.plot(curve.recall[keep], curve.precision[keep], color=BLUE)
    axes.axhline(base_rate, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    if curve.point:
        axes.plot(*curve.point, "o", color=ORANGE, markersize=8, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(title)
    return figure


@styled
def reliability(results: Mapping[str, Reliability]) -> Figure:
    """Reliability diagram of named curves: share present against probability, and below it the number of entries."""
    figure = Figure(figsize=(4.6, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    for (name, result), colour in zip(results.items(), LINES, strict=False):
        filled = result.count > 0
        label = f"{name}: calibration error {result.error:.4f}"
        upper.plot(result.probability[filled], result.share[filled], "o-", color=colour, markersize=4, label=label)
        edges = np.linspace(0, 1, len(result.count) + 1)
        lower.stairs(result.count, edges, color=colour, linewidth=1.6)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share present")
    figure.legend(loc="outside upper left", handlelength=1.4)
    lower.set(xlabel="predicted probability", ylabel="entries", yscale="log", ylim=(0.8, None))
    lower.yaxis.set_major_formatter("{x:,.0f}")
    lower.minorticks_off()
    return figure


@styled
def lines(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], xlabel: str, ylabel: str, title: str = "") -> Figure:
    """Training curves, name to x and y of equal length: lines over epochs or steps, from 0 on both axes."""
    figure, axes = single(4.2, 3.0)
    handles = []
    for number, (x, y) in enumerate(curves.values()):
        style = "o-" if len(np.asarray(x)) <= 40 else "-"
        handles += axes.plot(x, y, style, color=LINES[number % len(LINES)], markersize=3)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, None))
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y", color=(0, 0, 0, 0.12), linewidth=0.8)
    if len(handles) > 1:
        axes.legend(handles, list(curves))
    return figure
