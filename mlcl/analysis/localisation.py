"""Does the attention of a class lie on its objects? Numbers of each positive, and their means.

A positive is an image and a class that is present in it. With A its attention, not negative, over the h x w cells of
the map, and c in [0, 1] the share of each cell that the class's objects cover::

    energy      = sum_p A(p) c(p) / sum_p A(p)
    chance      = mean_p c(p)                         the energy of the same attention everywhere
    gain        = (energy - chance) / (1 - chance)    0 is chance, 1 is all on the objects
    specificity = energy - mean over the other present classes j of sum_p A(p) c_j(p) / sum_p A(p)
    pointing    = whether the centre of the highest cell lies within 15 pixels of an object (Zhang et al., arXiv
                  1608.00507); of equal cells, the share of them that does

The energy is that of Wang et al. (Score-CAM, arXiv 1910.01279), for parts of cells. All means are over the positives of
a class, then over classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mlcl.analysis.measures import Interpolation, average_precision, count

Floats = NDArray[np.float64]
MEASURES = ("energy", "chance", "gain", "pointing", "pointing_chance", "specificity")
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}  # pixels; COCO's borders
_BLOCK = 2**22  # numbers that are multiplied at a time


class Covered(Protocol):
    """What is used of :class:`mlcl.data.coverage.Coverage`: R pairs of image and class, in that order."""

    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    area: NDArray[np.float32]
    cells: NDArray[np.uint8]

    def near_of(self, pairs: Any) -> NDArray[np.bool_]:
        """(R', h, w) of some pairs: whether the centre of a cell is close to an object."""


@dataclass(frozen=True)
class Localisation:
    """P positives with known objects, sorted by image and class; NaN where a number is not defined."""

    index: NDArray[np.int64]  # (P,) the image's position in the dataset
    classes: NDArray[np.int64]  # (P,)
    area: Floats  # (P,) of the largest object of the class in the picture, in pixels
    energy: Floats
    chance: Floats
    pointing: Floats
    pointing_chance: Floats  # share of the cells whose centres would count
    specificity: Floats  # NaN without another present class with known objects

    @property
    def gain(self) -> Floats:
        """(P,) NaN where the objects cover everything."""
        room = 1 - self.chance
        return np.where(room > 0, (self.energy - self.chance) / np.where(room > 0, room, 1), np.nan)

    def take(self, chosen: Any) -> "Localisation":
        """The positives of these numbers, or where a boolean (P,) mask is true."""
        positions = np.arange(len(self.index))[chosen]
        return Localisation(**{field.name: getattr(self, field.name)[positions] for field in fields(self)})

    def class_means(self, measure: str, num_classes: int, size: str | None = None) -> Floats:
        """(K,) mean of a measure over the positives of each class, or over those of one of ``SIZES``."""
        values = getattr(self, measure)
        counted = np.isfinite(values) & (True if size is None else of_size(self.area, size))
        total = np.bincount(self.classes[counted], values[counted], num_classes)
        number = np.bincount(self.classes[counted], minlength=num_classes)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def elsewhere(found: Localisation, most: int, per_class: int = 2) -> list[int]:
    """The positives (their numbers in ``found``) with the lowest gain below 0, at most ``per_class`` of a class."""
    chosen: list[int] = []
    gain = found.gain
    for place in np.argsort(gain, kind="stable"):  # NaN comes last
        if len(chosen) == most or not gain[place] < 0:
            break
        if sum(found.classes[other] == found.classes[place] for other in chosen) < per_class:
            chosen.append(int(place))
    return chosen


def of_size(area: NDArray[Any], size: str) -> NDArray[np.bool_]:
    """Which of the areas, in pixels, are of this size."""
    low, high = SIZES[size]
    return np.asarray((area >= low) & (area < high))


def measure(
    index: NDArray[np.int64], classes: NDArray[np.int64], attention: NDArray[Any], covered: Covered
) -> Localisation:
    """Compare the attention of positives with where their objects are; positives that are not covered are left out.

    Args:
        index: (P,) the image of each positive: its row in ``covered``.
        classes: (P,) its class.
        attention: (P, h, w), not negative, in any scale.
        covered: where the objects are, on the same h x w cells.

    Raises:
        ValueError: for another grid, or attention that is negative, not finite, or 0 everywhere.
    """
    if attention.shape[1:] != covered.cells.shape[1:]:
        raise ValueError(f"attention of {attention.shape[1:]} cells, objects on {covered.cells.shape[1:]}")
    place, known = _places(index, classes, covered)
    source = np.flatnonzero(known)
    source = source[_each_once(index[source], classes[source])]
    index, classes, place = index[source], classes[source], place[source]
    cells = int(np.prod(attention.shape[1:]))
    step = max(1, _BLOCK // max(1, cells))
    parts = [
        _of_block(attention[source[start : start + step]], covered, place[start : start + step])
        for start in range(0, len(index), step)
    ]
    energy, chance, pointing, near = (
        np.concatenate([part[n] for part in parts]) if parts else np.zeros(0) for n in range(4)
    )
    specificity = energy - _on_others(index, attention, source, covered, place, step)
    return Localisation(
        index, classes, covered.area[place].astype(np.float64), energy, chance, pointing, near, specificity
    )


def _places(
    index: NDArray[np.int64], classes: NDArray[np.int64], covered: Covered
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The pair of each positive, and whether there is one."""
    many = 1 + max(int(part.max(initial=0)) for part in (classes, covered.classes))
    keys, wanted = covered.rows * many + covered.classes, index * many + classes
    place = np.searchsorted(keys, wanted)
    known = place < len(keys)
    known[known] = keys[place[known]] == wanted[known]
    return place, known


def _normalised(attention: NDArray[Any]) -> Floats:
    """(n, h w) that sums to 1."""
    flat = attention.reshape(len(attention), -1).astype(np.float64)
    total = flat.sum(1, keepdims=True)
    if not (np.isfinite(flat).all() and (flat >= 0).all() and (total > 0).all()):
        raise ValueError("attention must be finite, not negative, and above 0 somewhere")
    return np.asarray(flat / total)


def _of_block(attention: NDArray[Any], covered: Covered, place: NDArray[np.int64]) -> tuple[Floats, ...]:
    """Energy, chance, pointing and its chance."""
    weights = _normalised(attention)
    cover = covered.cells[place].reshape(weights.shape) / 255.0
    near = covered.near_of(place).reshape(weights.shape)
    highest = weights == weights.max(1, keepdims=True)
    pointing = (highest & near).sum(1) / highest.sum(1)
    return (weights * cover).sum(1), cover.mean(1), pointing, near.mean(1)


def _on_others(
    index: NDArray[np.int64],
    attention: NDArray[Any],
    source: NDArray[np.int64],
    covered: Covered,
    place: NDArray[np.int64],
    step: int,
) -> Floats:
    """(P,) mean energy of each positive on the objects of the other classes in its image; NaN where it is alone."""
    total, count = np.zeros(len(index)), np.zeros(len(index))
    apart = 1
    while len(pairs := np.flatnonzero(index[apart:] == index[:-apart])):  # positives of an image are neighbours
        for start in range(0, len(pairs), step):
            one = pairs[start : start + step]
            other = one + apart
            for own, foreign in ((one, other), (other, one)):
                cover = covered.cells[place[foreign]].reshape(len(own), -1) / 255.0
                total[own] += (_normalised(attention[source[own]]) * cover).sum(1)
                count[own] += 1
        apart += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def merged(parts: Iterable[Localisation]) -> Localisation:
    """The positives of several processes, each once."""
    several = list(parts)
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in several]) for field in fields(several[0])
    }
    once = _each_once(columns["index"], columns["classes"])
    return Localisation(**columns).take(once)


def _each_once(index: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the positives, sorted by image and class, without the images that a distributed sampler repeats."""
    return np.unique(np.stack([index, classes], 1), axis=0, return_index=True)[1]


def ap_of_size(
    logits: torch.Tensor,
    targets: torch.Tensor,
    index: torch.Tensor,
    covered: Covered,
    size: str,
    interpolation: Interpolation = "none",
) -> tuple[Floats, Floats]:
    """AP of each class (K,) among positives whose largest object is of this size, and that of guessing.

    All other positives are unknown, so they are neither found nor wrong; the absent images stay. AP falls with the
    number of positives, so a size is compared with its own chance, the share of positives, rather than with another.

    Args:
        logits: (N, K).
        targets: (N, K) in {1, 0, -1}.
        index: (N,) the images' rows in ``covered``.
        covered: where the objects are.
        size: one of ``SIZES``.
        interpolation: of the AP.
    """
    rows, classes = (part.numpy() for part in (targets == 1).nonzero(as_tuple=True))
    place, known = _places(index.numpy()[rows], classes, covered)
    counted = known.copy()
    counted[known] = of_size(covered.area[place[known]], size)
    banded = targets.clone()
    others = torch.from_numpy(~counted)
    banded[torch.from_numpy(rows)[others], torch.from_numpy(classes)[others]] = -1
    positives, absences = (count(banded == code).numpy() for code in (1, 0))
    measured = (positives > 0) & (absences > 0)
    ap = average_precision(logits, banded, interpolation).numpy()
    chance = positives / np.maximum(positives + absences, 1)
    return np.where(measured, ap, np.nan), np.where(measured, chance, np.nan)
