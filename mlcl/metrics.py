"""What the field reports: average precision (AP) and the CP CR CF1 OP OR OF1 family, exact, in float64.

Targets are 1 present, 0 absent, -1 unknown; an unknown entry enters no number. All values lie in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from mlcl.average_precision import AP_NAMES, Interpolation, average_precision
from mlcl.errors import MlclError
from mlcl.f1_family import CF1Definition, count, f1_family, family_of, image_blocks, per_class, top_k

__all__ = [
    "NAMES",
    "CF1Definition",
    "Evaluation",
    "Interpolation",
    "MultiLabelMetrics",
    "average_precision",
    "f1_family",
    "top_k",
]

# What MultiLabelMetrics computes; of all of them higher is better.
NAMES = ("mAP", *(f"{name}{form}" for form in ("", "_top3") for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")))
# Batches made one tensor: of thousands of classes it is so large that the system has the memory back once it is
# freed, while what small ones leave stays with the process.
_JOINED = 32


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

    def without(self, index: Sequence[int]) -> "Evaluation":
        """Without those of these images (positions) of which nothing is known; no number but counts of them changes."""
        left = torch.isin(self.index, torch.tensor(index, dtype=torch.int64))
        if not left.any():
            return self
        left[left.clone()] = (self.targets[left] < 0).all(1)
        return replace(self, logits=self.logits[~left], targets=self.targets[~left], index=self.index[~left])

    @cached_property
    def positives(self) -> Tensor:
        """(K,) number of images in which each class is present."""
        return cast(Tensor, sum(per_class(targets == 1) for (targets,) in image_blocks(self.targets)))

    @cached_property
    def unknown(self) -> Tensor:
        """(K,) number of images in which each class is unknown."""
        return cast(Tensor, sum(per_class(targets < 0) for (targets,) in image_blocks(self.targets)))


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
        if self._update_count % _JOINED == 0:
            for state in (self.logits, self.targets, self.index):
                state[-_JOINED:] = [torch.cat(state[-_JOINED:])]

    def reset(self) -> None:
        """Forget everything, the evaluation too: two epochs never lie in memory beside each other."""
        super().reset()
        self.evaluation = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics does; a rank that saw no image takes part with none."""
        if not self.logits:
            self.update(*torch.zeros(2, 0, self.num_classes, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """``mAP, CP, CR, CF1, OP, OR, OF1`` and their ``_top3`` forms; per class and image: ``self.evaluation``."""
        logits, targets, index = self._in_order()
        class_ap = average_precision(logits, targets, self.interpolation)
        counts = torch.zeros(2, 3, self.num_classes, dtype=torch.int64)
        for some_logits, some_targets in image_blocks(logits, targets):
            predicted = (some_logits.double() / self.temperature).sigmoid() >= self.thresholds
            top3 = predicted & top_k(some_logits, some_targets, 3)
            counts += torch.stack([count(predicted, some_targets), count(top3, some_targets)])
        values = {"mAP": class_ap.nanmean(), **family_of(counts[0], self.cf1)}
        values |= {f"{name}_top3": value for name, value in family_of(counts[1], self.cf1).items()}
        how = self.definitions(), self.thresholds, self.temperature
        self.evaluation = Evaluation(logits, targets, index, class_ap, values, *how)
        return values

    def _in_order(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, targets and index on the CPU, sorted by index, the first of duplicates.

        The state becomes this very result where it lies on the CPU and is not a copy for synchronisation: the same to
        further updates, and the batches can go while they are copied instead of lying beside the whole.
        """
        index, order = dim_zero_cat(self.index).cpu().sort(stable=True)
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = (index[1:] != index[:-1]) | (index[1:] < 0)
        order, index = order[first], index[first]
        place = torch.full_like(first, -1, dtype=torch.int64)
        place[order] = torch.arange(len(order))
        states = self.logits, self.targets, self.index
        own = all(isinstance(state, list) and all(part.device.type == "cpu" for part in state) for state in states)
        logits, targets = (_placed(state if own else _parts(state), place, len(order)) for state in states[:2])
        if own:
            self.logits[:], self.targets[:], self.index[:] = [logits], [targets], [index]
        return logits, targets, index

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


def _parts(state: list[Tensor] | Tensor) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [*state]  # synchronised, torchmetrics' state is one tensor


def _placed(batches: list[Tensor], place: Tensor, size: int) -> Tensor:
    """The rows of all batches at their places, -1 left out: (size, K) on the CPU; the list is emptied on the way."""
    if len(batches) == 1 and torch.equal(place, torch.arange(size)):
        return batches[0].cpu()
    dtype = reduce(torch.promote_types, {batch.dtype for batch in batches})
    placed = torch.empty(size, batches[0].shape[1], dtype=dtype)
    end = len(place)
    while batches:  # from the last, where the heap can shrink
        batch = batches.pop().cpu()
        to = place[end - len(batch) : end].numpy()  # numpy copies whole rows, torch entries
        placed.numpy()[to[to >= 0]] = batch.numpy()[to >= 0]
        end -= len(batch)
    return placed
