"""A projection of embeddings."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from mlcl.viz.style import class_colours, single, styled


@styled
def embedding_scatter(points: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Figure:
    """A 2-D projection of embeddings, coloured and named by class.

    The dots of class k form a group ``class-<k>``, its name the group ``label-<k>`` (see ``pages.svg``).

    Args:
        points: (R, 2).
        labels: (R,) integer, the class of each row.
        classes: K names.
    """
    places, owners = np.asarray(points, dtype=np.float64), np.asarray(labels)
    figure, axes = single(7.4, 5.6)
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
