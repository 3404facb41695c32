"""Head, medium and tail: the classes by the number of training images that show them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def groups(counts: Counts, borders: Sequence[int]) -> dict[str, NDArray[np.bool_]]:
    """Which classes belong to each group, (K,) each, the frequent ones first.

    Args:
        counts: (K,) training images in which a class is known to be present.
        borders: low and high: up to low it is tail, above high head. Of LT-MLC (Wu et al., ECCV 2020, 20 and 100) the
            code has ``< 20`` and ``>= 100``, which are 19 and 99 here.
    """
    low, high = borders
    return {"head": counts > high, "medium": (counts > low) & (counts <= high), "tail": counts <= low}


def by_frequency(class_ap: NDArray[np.float64], counts: Counts, borders: Sequence[int]) -> dict[str, Any] | None:
    """The mAP of each group; None where all classes are in one, which is then that of all.

    Args:
        class_ap: (K,) in [0, 1], NaN for a class without AP, which is in no mean.
        counts: see :func:`groups`.
        borders: see :func:`groups`.

    Returns:
        ``borders``, and by group ``classes``, their number, and ``mAP``, None without an AP in it.
    """
    chosen = groups(counts, borders)
    if sum(own.any() for own in chosen.values()) < 2:
        return None
    measured = {name: class_ap[own & ~np.isnan(class_ap)] for name, own in chosen.items()}
    return {
        "borders": [int(border) for border in borders],
        **{
            name: {"classes": int(own.sum()), "mAP": float(measured[name].mean()) if len(measured[name]) else None}
            for name, own in chosen.items()
        },
    }


def meaning(borders: Sequence[int]) -> str:
    """The groups in words."""
    return f"head: more than {borders[1]:,} training images, tail: at most {borders[0]:,}"
