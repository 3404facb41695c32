"""The metrics of a split: logits and targets are collected over batches and ranks, then scored at once."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from mlcl.analysis.measures import (
    AP_NAMES,
    NAMES,
    CF1Definition,
    Evaluation,
    Interpolation,
    average_precision,
    count,
    decide,
    f1_family,
    top_k,
)
from mlcl.errors import MlclError

__all__ = ["NAMES", "CF1Definition", "Evaluation", "Interpolation", "MultiLabelMetrics", "average_precision"]
__all__ += ["f1_family", "top_k"]


class MultiLabelMetrics(Metric):
    """Collects logits and targets of a split, gathers them over ranks, computes ``NAMES`` and an :class:`Evaluation`.

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
        thresholds = threshold if isinstance(threshold, list) else [threshold] * num_classes
        if len(thresholds) != num_classes or not all(0 <= value <= 1 for value in thresholds):
            raise MlclError(f"model.threshold is {threshold}, it must lie in [0, 1], once or {num_classes} times")
        if not 0 < temperature < float("inf"):
            raise MlclError(f"model.temperature is {temperature}, it must be above 0")
        self.num_classes, self.threshold, self.interpolation, self.cf1 = num_classes, threshold, interpolation, cf1
        self.thresholds, self.temperature = torch.tensor(thresholds, dtype=torch.float64), temperature
        self.evaluation: Evaluation | None = None
        for state in ("logits", "targets", "index"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor, index: Tensor | None = None) -> None:
        """Add logits (B, K), targets (B, K) in {1, 0, -1} and positions in the dataset (B,), all of them or none.

        Of images with the same position, which a distributed sampler adds, the first counts. ValueError for other
        shapes. Logits are kept in at least fp32, since half-precision probabilities tie.
        """
        if logits.shape != targets.shape or logits.shape[1:] != (self.num_classes,):
            got = f"{(*logits.shape,)} and {(*targets.shape,)}"
            raise ValueError(f"logits and targets must be (B, {self.num_classes}), got {got}")
        self.logits.append(logits.detach().to(torch.promote_types(logits.dtype, torch.float32)))
        self.targets.append(targets.detach().to(torch.int8))
        index = torch.full((len(logits),), -1) if index is None else index.detach()
        self.index.append(index.to(logits.device, torch.int64))

    def reset(self) -> None:
        """Forget everything, the evaluation too: two of them may not fit the memory."""
        super().reset()
        self.evaluation = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics does; a rank that saw no image takes part with none."""
        if not self.logits:
            self.update(*torch.zeros(2, 0, self.num_classes, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """The values of ``NAMES``; what they come from is kept as ``self.evaluation``."""
        index, order = dim_zero_cat(self.index).cpu().sort(stable=True)
        first = torch.ones_like(index, dtype=torch.bool)  # of the duplicates
        first[1:] = (index[1:] != index[:-1]) | (index[1:] < 0)
        logits, targets = (dim_zero_cat(state).cpu()[order[first]] for state in (self.logits, self.targets))
        class_ap = average_precision(logits, targets, self.interpolation)
        class_ap[count(targets == 0) == 0] = torch.nan  # without a known absence every ranking is perfect
        predicted = decide(logits, self.thresholds, self.temperature)
        top3 = predicted & top_k(logits, targets, 3)
        values = {"mAP": class_ap.nanmean(), **f1_family(predicted, targets, self.cf1)}
        values |= {f"{name}_top3": value for name, value in f1_family(top3, targets, self.cf1).items()}
        how = self.definitions(), self.thresholds, self.temperature
        self.evaluation = Evaluation(logits, targets, index[first], class_ap, values, *how)
        return values

    def definitions(self) -> dict[str, Any]:
        """The variants in use, in words, to be printed with the numbers."""
        return {
            "AP": f"{AP_NAMES[self.interpolation]}, equal scores retrieved together",
            "mAP": "mean over the classes with positives",
            "CP, CR": "means over the classes with positives; a class never predicted has precision 0",
            "CF1": "2 CP CR / (CP + CR)" if self.cf1 == "harmonic" else "mean of the classes' F1",
            "threshold": "one per class, in per_class.csv" if isinstance(self.threshold, list) else self.threshold,
            **({"temperature": self.temperature} if self.temperature != 1 else {}),
            "top3": "among the three highest known scores and above the threshold",
            "unknown": "left out",
        }
