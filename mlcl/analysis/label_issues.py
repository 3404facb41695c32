"""Which labels are probably wrong: scores of images that were not trained on, against the labels these images have."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from mlcl.analysis.evaluation import Bools, Floats, Ints
from mlcl.analysis.measures import BLOCK

MOST = 1000  # entries in a list: more than anybody looks at
_FEWEST = 5  # labels of either kind: of a class with fewer, nobody can tell what is usual
_ROUNDING = 1e-9
_PENALTY = 30.0  # on half the squared shift of a class: with fewer labels than this a class keeps the common one


@dataclass(frozen=True)
class LabelIssues:
    """Known entries whose label is doubtful, the most doubtful first."""

    rows: Ints  # (I,) of the image
    classes: Ints  # (I,)
    doubt: Floats  # (I,) probability of the other label, by the scores after a calibration

    def take(self, chosen: NDArray[Any]) -> "LabelIssues":
        """These of the entries, by number or by a boolean mask."""
        return LabelIssues(self.rows[chosen], self.classes[chosen], self.doubt[chosen])


def find(logits: NDArray[Any], targets: NDArray[Any], most: int = MOST) -> LabelIssues:
    """The entries that :func:`confident` names and that are more likely wrong than right, the most doubtful first.

    Arguments as of :func:`calibrate`; at most ``most`` entries.
    """
    slope, shifts = calibrate(logits, targets)
    parts, step = [], max(1, BLOCK // max(1, len(logits)))
    for first in range(0, len(shifts), step):  # with thousands of classes a copy of everything is gigabytes
        block = slice(first, first + step)
        probabilities = expit(slope * logits[:, block].astype(np.float64) + shifts[block])
        doubts = doubt(probabilities, targets[:, block])
        rows, classes = np.nonzero(confident(probabilities, targets[:, block]) & (doubts > 0.5))
        parts.append((rows, classes + first, doubts[rows, classes]))
    found = LabelIssues(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return found.take(np.lexsort((found.classes, found.rows, -found.doubt))[:most])


def calibrate(logits: NDArray[Any], targets: NDArray[Any]) -> tuple[float, Floats]:
    """The slope a and the shifts b_k, (K,), with which sigmoid(a z + b_k) has the lowest cross-entropy on the labels.

    A network scores some classes too low or too high as a whole. So that one with few labels is not taken for one of
    these, b_k = b + c_k with a penalty of 15 c_k^2.

    Args:
        logits: z, (N, K) float, of images that the network was not trained on.
        targets: (N, K) integer in {1, 0, -1}; unknown entries are left out.
    """
    count = max(1, BLOCK // max(1, logits.shape[1]))
    chosen = np.random.default_rng(0).permutation(len(logits))[:count]
    z, given = logits[chosen].astype(np.float64), targets[chosen]
    known, y = (given >= 0).astype(np.float64), (given == 1).astype(np.float64)
    size = max(float(np.abs(z).max(initial=0)), 1e-6)  # of very steep or flat scores the loss has no usable slope
    z = z / size

    def loss(parameters: Floats) -> tuple[float, Floats]:
        own = parameters[2:]
        moved = parameters[0] * z + parameters[1] + own
        error = known * (expit(moved) - y)
        value = (known * (np.logaddexp(0, moved) - y * moved)).sum() + _PENALTY / 2 * (own**2).sum()
        slopes = np.concatenate([[(error * z).sum(), error.sum()], error.sum(0) + _PENALTY * own])
        return float(value), slopes

    start = np.zeros(2 + logits.shape[1])
    bounds = [(0, None), *[(None, None)] * (len(start) - 1)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(found[0]) / size, found[1] + found[2:]


def doubt(probabilities: Floats, targets: NDArray[Any]) -> Floats:
    """1 - the probability of the label that is given: (N, K); NaN where none is."""
    return np.where(targets == 1, 1 - probabilities, np.where(targets == 0, probabilities, np.nan))


def confident(probabilities: Floats, targets: NDArray[Any]) -> Bools:
    """The entries whose other label is confidently the right one: (N, K).

    Confident learning (Northcutt et al., JAIR 2021, eq. 1 and 2), one class at a time: the other label has more than
    the mean probability that it has where it is given, and the given one has not, or a lower probability. For these
    means a class needs five labels of either kind.
    """
    present, absent = targets == 1, targets == 0
    counted = np.minimum(present.sum(0), absent.sum(0)) >= _FEWEST
    usual_present = (probabilities * present).sum(0) / np.maximum(present.sum(0), 1)
    usual_absent = ((1 - probabilities) * absent).sum(0) / np.maximum(absent.sum(0), 1)
    # Strictly, with room for rounding: a network that says the same of all images says nothing of a label.
    seems_present = probabilities > usual_present + _ROUNDING
    seems_absent = 1 - probabilities > usual_absent + _ROUNDING
    likely = probabilities > 0.5
    wrong_absent = absent & seems_present & (~seems_absent | likely)
    wrong_present = present & seems_absent & (~seems_present | ~likely)
    return np.asarray((wrong_absent | wrong_present) & counted)
