"""What the rows of several metrics share: our numbers, torchmetrics' and those of plain loops."""

from collections.abc import Callable
from typing import Any

from support.beside import slow
from support.beside.table import Part

from mlcl.metrics import MultiLabelMetrics

SKLEARN, TORCHMETRICS, COCO = "scikit-learn", "torchmetrics", "pycocotools"
K = 3  # classes of a part
NO_UNKNOWN, IGNORED = "takes no -1", "with ignore_index=-1"


def ours(part: Part, name: str, **settings: Any) -> float:
    """A number of ``mlcl test``."""
    metrics = MultiLabelMetrics(K, **settings)
    metrics.update(*part.exact)
    return metrics.compute()[name].item()


def theirs(part: Part, kind: Callable[..., Any], **settings: Any) -> Any:
    """A number of torchmetrics, from the logits in one update; unknown labels are named to it."""
    known = {} if part.known.all() else {"ignore_index": -1}
    return kind(K, **known, **settings)(*part.tensors)


def classes(part: Part, one: Callable[[slow.Pairs], float], scores: Any = None) -> list[float]:
    """A plain loop's number of each class, from the logits or other scores."""
    z = (part.z if scores is None else scores).tolist()
    return [one(slow.column(z, part.lists[1], k)) for k in range(K)]


def per_image(part: Part, one: Callable[..., float], scores: Any = None) -> float:
    """The mean over images of a plain loop's number."""
    z = part.lists[0] if scores is None else scores.tolist()
    return slow.mean(slow.by_image(one, z, part.lists[1]))


def half(logit: float) -> bool:
    """Ours: predicted from a probability of 0.5 on."""
    return logit >= 0


def beyond_half(logit: float) -> bool:
    """torchmetrics': above it."""
    return logit > 0


def by_class(part: Part, place: int, predicted: Callable[[float], bool] = half) -> list[float]:
    """Precision (0), recall (1) or F1 (2) of each class."""
    return classes(part, lambda pairs: slow.f1(pairs, predicted)[place])


def harmonic(part: Part, counted: list[int]) -> float:
    """CF1 of ML-GCN: of the mean precision and the mean recall."""
    precision, recall = (slow.mean([by_class(part, place)[k] for k in counted]) for place in (0, 1))
    return slow.ratio(2 * precision * recall, precision + recall)
