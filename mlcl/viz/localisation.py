"""Average precision against where the attention lies."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mlcl.viz.style import BLUE, SOFT, shortened, single, styled

_NAMED = 30  # classes; of more, those far from the others' middle


@styled
def ap_against_energy(class_ap: ArrayLike, energy: ArrayLike, chance: ArrayLike, classes: Sequence[str]) -> Figure:
    """A dot per class, with a line from the energy of chance to its own: a high dot without a line is a warning.

    Args:
        class_ap: (K,) in [0, 1]; a class with a NaN in one of the three is left out.
        energy: (K,) share of the attention on the objects of the class.
        chance: (K,) that of the same attention everywhere.
        classes: K names.
    """
    ap, own, base = (np.asarray(values, dtype=np.float64) for values in (class_ap, energy, chance))
    shown = np.flatnonzero(np.isfinite(ap + own + base))
    figure, axes = single(6.4, 4.6)
    axes.hlines(ap[shown], base[shown], own[shown], color=SOFT, linewidth=1)
    axes.plot(base[shown], ap[shown], "|", color=SOFT, markersize=7, label="chance")
    axes.plot(own[shown], ap[shown], "o", color=BLUE, markersize=5, label="attention")
    middle = np.median(np.stack([ap[shown], own[shown]]), axis=1, keepdims=True) if len(shown) else 0
    distance = np.abs(np.stack([ap[shown], own[shown]]) - middle).sum(0)
    for k in shown[np.argsort(-distance, kind="stable")[:_NAMED]]:
        name = shortened(classes[k])
        axes.annotate(name, (own[k], ap[k]), (5, 3), textcoords="offset points", fontsize=8)
    right = min(1.0, 1.25 * float(np.max([own[shown], base[shown]], initial=0.05)))
    axes.set(
        xlim=(0, right), ylim=(0, 1.02), xlabel="share of the attention on the objects", ylabel="average precision"
    )
    axes.legend(loc="lower right", handlelength=1)
    return figure
