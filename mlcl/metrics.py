"""What the field reports: average precision (AP) and the CP CR CF1 OP OR OF1 family, exact, in float64.

Targets are 1 present, 0 absent, -1 unknown; an unknown entry enters no number. All values lie in [0, 1].
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from mlcl.errors import MlclError

Interpolation = Literal["none", "envelope", "11point"]
CF1Definition = Literal["harmonic", "mean"]
_AP_NAMES = {"none": "not interpolated", "envelope": "precision envelope (VOC2010+)", "11point": "11-point (VOC2007)"}


def average_precision(scores: Tensor, targets: Tensor, interpolation: Interpolation = "none") -> Tensor:
    """Average precision of every class.

    Entries with equal scores are retrieved together (as scikit-learn does), so the order of the images never matters.

    Args:
        scores: (N, K) float, higher means more likely present; logits are fine and, in half precision, safer.
        targets: (N, K) integer in {1, 0, -1}; -1 is left out.
        interpolation: ``none`` averages the precision at each positive (ML-GCN, ASL, MulCon); ``envelope`` the
            highest precision at this or a higher recall (VOC2010+, Q2L, SADCL); ``11point`` the same at the recalls
            0, 0.1, ..., 1 (VOC2007).

    Returns:
        (K,) float64; NaN for a class without positives.

    Raises:
        ValueError: if the shapes differ, a score is NaN, or the interpolation is unknown.

    >>> average_precision(torch.tensor([[3.0], [2.0], [1.0]]), torch.tensor([[1], [0], [1]]))
    tensor([0.8333], dtype=torch.float64)
    """
    scores, targets = torch.as_tensor(scores), torch.as_tensor(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores and targets must both be (N, K), got {(*scores.shape,)} and {(*targets.shape,)}")
    if interpolation not in _AP_NAMES:
        raise ValueError(f"interpolation must be one of {', '.join(_AP_NAMES)}, got {interpolation!r}")
    if scores.isnan().any():
        raise ValueError("scores hold NaN: the network's output is not a number (a diverged training?)")
    columns = zip(_numpy(scores).T, _numpy(targets).T, strict=True)
    return torch.tensor([_class_ap(s, t, interpolation) for s, t in columns], dtype=torch.float64)


def _class_ap(scores: NDArray[Any], targets: NDArray[Any], interpolation: str) -> float:
    """AP of one class; numpy, because its sort is several times faster than torch's on a CPU."""
    known, hits = np.sort(scores[targets >= 0]), np.sort(scores[targets == 1])
    if not len(hits):
        return float("nan")
    # At each positive, from the lowest score up: how many positives, and how many entries, score at least as much.
    found = len(hits) - np.searchsorted(hits, hits)
    precision = found / (len(known) - np.searchsorted(known, hits))
    if interpolation != "none":
        precision = np.maximum.accumulate(precision)
    if interpolation == "11point":  # in integers: 3 of 10 found is a recall of 0.3, whatever floats say
        levels = found * 10 >= np.arange(11)[:, None] * len(hits)
        return float(np.where(levels, precision, 0).max(1).mean())
    return float(precision.mean())


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """On the CPU, half precision widened: numpy has no bfloat16."""
    return (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).detach().cpu().numpy()


def f1_family(predicted: Tensor, targets: Tensor, cf1: CF1Definition = "harmonic") -> dict[str, Tensor]:
    """Per-class (C) and overall (O) precision, recall and F1 of binary decisions.

    CP and CR are means over the classes with at least one positive; a class that is never predicted has precision 0.

    Args:
        predicted: (N, K) bool.
        targets: (N, K) integer in {1, 0, -1}; -1 is left out.
        cf1: ``harmonic`` is 2 CP CR / (CP + CR) (ML-GCN, CSRA, MulCon); ``mean`` the mean of the classes' F1 (SADCL).

    Returns:
        ``CP, CR, CF1, OP, OR, OF1``, float64 scalars.
    """
    positive = targets == 1
    predicted = predicted & (targets >= 0)
    hits, claimed, present = ((predicted & positive).sum(0), predicted.sum(0), positive.sum(0))
    counted = present > 0
    precision, recall = _ratio(hits, claimed)[counted].mean(), _ratio(hits, present)[counted].mean()
    overall_precision, overall_recall = _ratio(hits.sum(), claimed.sum()), _ratio(hits.sum(), present.sum())
    mean_f1 = _ratio(2 * hits, claimed + present)[counted].mean()
    return {
        "CP": precision,
        "CR": recall,
        "CF1": _ratio(2 * precision * recall, precision + recall) if cf1 == "harmonic" else mean_f1,
        "OP": overall_precision,
        "OR": overall_recall,
        "OF1": _ratio(2 * overall_precision * overall_recall, overall_precision + overall_recall),
    }


def top_k(scores: Tensor, targets: Tensor, k: int) -> Tensor:
    """The k highest known entries of each image, (N, K) bool; of equal scores the lower class index comes first."""
    known = np.where(_numpy(targets) >= 0, _numpy(scores), -np.inf)
    chosen, rows = np.zeros(known.shape, dtype=bool), np.arange(len(known))
    for _ in range(min(k, known.shape[1])):
        best = known.argmax(1)  # the first of equals: numpy promises it, torch.topk does not
        chosen[rows, best], known[rows, best] = True, -np.inf
    return torch.from_numpy(chosen).to(scores.device) & (targets >= 0)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Numerator / denominator in float64, 0 where the denominator is 0."""
    numerator, denominator = numerator.double(), denominator.double()
    return torch.where(denominator == 0, 0.0, numerator / denominator.where(denominator != 0, 1.0))


@dataclass(frozen=True)
class Evaluation:
    """One evaluated split: what was scored (sorted by ``index``, duplicates gone) and what came out."""

    logits: Tensor  # (N, K) float
    targets: Tensor  # (N, K) int8
    index: Tensor  # (N,) int64, position in the dataset; -1 where none was given
    class_ap: Tensor  # (K,) float64
    values: dict[str, Tensor]
    definitions: dict[str, Any]
    thresholds: Tensor  # (K,) float64, on sigmoid(logits / temperature)
    temperature: float

    @property
    def positives(self) -> Tensor:
        """(K,) number of images in which each class is present."""
        return (self.targets == 1).sum(0)


class MultiLabelMetrics(Metric):
    """Collects logits and targets over a split, gathers them once, and computes everything from them.

    Args:
        num_classes: K.
        threshold: probability from which a label counts as predicted, one number or K of them.
        interpolation: see :func:`average_precision`.
        cf1: see :func:`f1_family`.
        temperature: the probability is sigmoid(logits / temperature).
    """

    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]
    index: list[Tensor]

    def __init__(
        self,
        num_classes: int,
        threshold: float | list[float] = 0.5,
        interpolation: Interpolation = "none",
        cf1: CF1Definition = "harmonic",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.threshold, self.interpolation, self.cf1 = num_classes, threshold, interpolation, cf1
        thresholds = threshold if isinstance(threshold, list) else [threshold] * num_classes
        if len(thresholds) != num_classes or not all(0 <= value <= 1 for value in thresholds):
            raise MlclError(f"model.threshold is {threshold}, it must lie in [0, 1], once or {num_classes} times")
        if not 0 < temperature < float("inf"):
            raise MlclError(f"model.temperature is {temperature}, it must be above 0")
        self.thresholds, self.temperature = torch.tensor(thresholds, dtype=torch.float64), temperature
        self.evaluation: Evaluation | None = None
        for state in ("logits", "targets", "index"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor, index: Tensor | None = None) -> None:
        """Add a batch; ValueError for other shapes.

        Args:
            logits: (B, K) raw scores; kept in at least fp32, since half-precision probabilities tie.
            targets: (B, K) integer in {1, 0, -1}.
            index: (B,) position in the dataset; the duplicates that a distributed sampler adds are dropped by it.
        """
        if logits.shape != targets.shape or logits.ndim != 2 or logits.shape[1] != self.num_classes:
            got = f"{(*logits.shape,)} and {(*targets.shape,)}"
            raise ValueError(f"logits and targets must be (B, {self.num_classes}), got {got}")
        self.logits.append(logits.detach().to(torch.promote_types(logits.dtype, torch.float32)))
        self.targets.append(targets.detach().to(torch.int8))
        unknown = torch.full((len(logits),), -1, device=logits.device)
        self.index.append(unknown if index is None else index.detach().to(torch.int64))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics does; a rank that saw no image takes part with none."""
        if not self.logits:
            self.update(torch.zeros(0, self.num_classes), torch.zeros(0, self.num_classes))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """``mAP, CP, CR, CF1, OP, OR, OF1`` and their ``_top3`` forms; per class and image: ``self.evaluation``."""
        logits, targets, index = (dim_zero_cat(s).cpu() for s in (self.logits, self.targets, self.index))
        index, order = index.sort(stable=True)
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = (index[1:] != index[:-1]) | (index[1:] < 0)
        order, index = order[first], index[first]
        logits, targets = logits[order], targets[order]
        class_ap = average_precision(logits, targets, self.interpolation)
        predicted = (logits.double() / self.temperature).sigmoid() >= self.thresholds
        top3 = predicted & top_k(logits, targets, 3)
        values = {"mAP": class_ap.nanmean(), **f1_family(predicted, targets, self.cf1)}
        values |= {f"{name}_top3": value for name, value in f1_family(top3, targets, self.cf1).items()}
        how = self.definitions(), self.thresholds, self.temperature
        self.evaluation = Evaluation(logits, targets, index, class_ap, values, *how)
        return values

    def definitions(self) -> dict[str, Any]:
        """The variants in use, in words, to be printed with the numbers."""
        return {
            "AP": f"{_AP_NAMES[self.interpolation]}, equal scores retrieved together",
            "mAP": "mean over the classes with positives",
            "CP, CR": "means over the classes with positives; a class never predicted has precision 0",
            "CF1": "2 CP CR / (CP + CR)" if self.cf1 == "harmonic" else "mean of the classes' F1",
            "threshold": "one per class, in per_class.csv" if isinstance(self.threshold, list) else self.threshold,
            **({"temperature": self.temperature} if self.temperature != 1 else {}),
            "top3": "among the three highest known scores and above the threshold",
            "unknown": "left out",
        }
