"""Embeddings: their projections, and the distances within and between classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from mlcl.analysis.embeddings import ClassDistances
from mlcl.viz.style import BLUE, GREEN, ORANGE, SOFT, class_colours, shortened, single, styled

# How the distances of a class are drawn: intra, inter, absent.
_KINDS = (("same class", BLUE, "o"), ("other classes", ORANGE, "s"), ("same class where it is absent", GREEN, "D"))


@styled
def embedding_scatter(points: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Figure:
    """A 2-D projection of embeddings, coloured and named by class.

    Points are (R, 2), labels (R,) the class of each. The dots of class k form a group ``class-<k>``, its name the group
    ``label-<k>`` (see ``pages.svg``).
    """
    places, owners = np.asarray(points, dtype=np.float64), np.asarray(labels)
    figure, axes = single(7.4, 5.6)
    colours = class_colours(len(classes))
    size = float(np.clip(14000 / max(1, len(places)), 8, 36))
    for k in np.unique(owners):
        x, y = places[owners == k].T
        axes.scatter(x, y, s=size, color=colours[k], alpha=0.85, linewidths=0, gid=f"class-{k}")
    _name_groups(axes, places, owners, classes)
    axes.spines[:].set_visible(False)
    return figure


@styled
def projections(panels: Mapping[str, tuple[ArrayLike, ArrayLike]], classes: Sequence[str]) -> Figure:
    """2-D projections side by side, title to points (R, 2) and classes (R,); a class has one colour in all of them."""
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    colours = np.array(class_colours(len(classes)))
    grid: Sequence[Axes] = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (points, labels)) in zip(grid, panels.items(), strict=True):
        places, owners = np.asarray(points, dtype=np.float64), np.asarray(labels)
        size = float(np.clip(9000 / max(1, len(places)), 6, 30))
        order = np.random.default_rng(0).permutation(len(places))  # else the last class would cover all others
        x, y = places[order].T
        axes.scatter(x, y, s=size, c=colours[owners[order]], alpha=0.8, linewidths=0)
        _name_groups(axes, places, owners, classes)
        axes.set_title(title)
        axes.spines[:].set(color=SOFT, visible=True)
    return figure


@styled
def class_distances(tables: Mapping[str, ClassDistances], classes: Sequence[str]) -> Figure:
    """Mean cosine distances of each class, a panel for each model; good is blue left, orange and green right."""
    figure = Figure(figsize=(1.2 + 3.6 * len(tables), 1.5 + 0.24 * len(classes)), layout="constrained")
    grid: Sequence[Axes] = figure.subplots(1, len(tables), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, table) in zip(grid, tables.items(), strict=True):
        every = np.stack([table.intra, table.inter, table.absent])
        low, high = np.fmin.reduce(every), np.fmax.reduce(every)
        axes.hlines(np.flatnonzero(~np.isnan(low)), low[~np.isnan(low)], high[~np.isnan(low)], color=SOFT, linewidth=1)
        for values, (label, colour, marker) in zip(every, _KINDS, strict=True):
            if not np.isnan(values).all():
                axes.plot(values, range(len(classes)), marker, color=colour, markersize=5, linestyle="", label=label)
        axes.set(xlabel="mean cosine distance", ylim=(len(classes) - 0.4, -0.6))
        axes.set_title(title)
    grid[0].set_xlim(left=0)
    grid[0].set_yticks(range(len(classes)), [shortened(name) for name in classes])
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, handletextpad=0.2, columnspacing=1.2)
    return figure


def _name_groups(axes: Axes, points: NDArray[np.float64], owners: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Write each class's name at its centre, or as far above or below as it takes to cover no other name."""
    axes.set(xticks=[], yticks=[])
    axes.autoscale_view()
    taken: list[tuple[float, float, float]] = []  # x, y and width, in points
    for k in np.unique(owners):
        mine = points[owners == k]
        # The point nearest to the median: a name stands on its own class even where that has several groups.
        centre = mine[np.square(mine - np.median(mine, axis=0)).sum(1).argmin()]
        x, y = axes.transData.transform(centre) * 72 / axes.figure.dpi
        name = shortened(classes[k])
        width = 6.5 * len(name)
        for shift in sorted(range(-60, 61, 3), key=abs):
            if not any(abs(x - a) < (width + w) / 2 and abs(y + shift - b) < 12 for a, b, w in taken):
                break
        taken.append((x, y + shift, width))
        text = axes.annotate(name, tuple(centre), (0, shift), textcoords="offset points", fontweight="bold")
        text.set(ha="center", va="center", gid=f"label-{k}")
