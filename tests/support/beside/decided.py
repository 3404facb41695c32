"""The F1 family and other numbers of decisions beside other libraries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn.metrics as sk
from support.beside import slow
from support.beside.helpers import (
    IGNORED,
    NO_UNKNOWN,
    SKLEARN,
    TORCHMETRICS,
    K,
    beyond_half,
    by_class,
    classes,
    half,
    harmonic,
    ours,
    theirs,
)
from support.beside.table import Part, Row
from torchmetrics import MetricCollection
from torchmetrics import classification as tm


def rows(p: dict[str, Part]) -> list[Row]:
    plain, ties, _, unknown, absent, everywhere = p.values()
    both = [0, 1, 2]

    def decided(score: Callable[..., Any], part: Part, **settings: Any) -> Any:
        return lambda: score(part.y, part.p >= 0.5, zero_division=0, **settings)

    def overall(part: Part, predicted: Callable[[float], bool] = half) -> Any:
        return lambda: slow.f1(slow.pooled(*part.lists), predicted)[2]

    def macro(kind: Any, part: Part, average: str = "macro") -> Any:
        return lambda: theirs(part, kind, average=average)

    f1, mcc = tm.MultilabelF1Score, tm.MultilabelMatthewsCorrCoef

    def collected() -> Any:
        metrics = MetricCollection({"from_50": f1(K), "from_90": f1(K, threshold=0.9)})
        z, y = plain.tensors
        first = (z.sigmoid() < 0.5).all(1)
        for chosen in (first, ~first):
            metrics.update(z[chosen], y[chosen])
        return metrics.compute()["from_90"]

    def at_nine() -> float:
        return slow.mean(classes(plain, lambda pairs: slow.f1(pairs, lambda s: s > np.log(9))[2]))

    def wrong(part: Part) -> list[float]:
        return classes(part, lambda pairs: slow.mean([(s >= 0) != t for s, t in pairs]))

    hamming = tm.MultilabelHammingDistance
    all_wrong = lambda part: slow.mean([(s >= 0) != t for s, t in slow.pooled(*part.lists)])  # noqa: E731
    exact = lambda: slow.mean([all((s >= 0) == t for s, t in zip(z, y, strict=True) if t >= 0)  # noqa: E731
                               for z, y in zip(*unknown.lists, strict=True)])  # fmt: skip
    mean_mcc = lambda: slow.mean(classes(plain, slow.matthews, plain.p))  # noqa: E731
    return [
        *(Row(name, "plain", lambda i=i: slow.mean(by_class(plain, i)),
              {SKLEARN: decided(score, plain, average="macro"), TORCHMETRICS: macro(kind, plain)},
              lambda name=name: ours(plain, name))
          for i, name, score, kind in ((0, "CP", sk.precision_score, tm.MultilabelPrecision),
                                       (1, "CR", sk.recall_score, tm.MultilabelRecall))),
        Row("CF1", "plain", lambda: harmonic(plain, both),
            {SKLEARN: decided(sk.f1_score, plain, average="macro"), TORCHMETRICS: macro(f1, plain)},
            lambda: ours(plain, "CF1"), lambda: slow.mean(by_class(plain, 2)), 
            "the mean of the classes' F1, as cf1 mean"),
        Row("CF1, cf1 mean", "absent", lambda: slow.mean(by_class(absent, 2)[:2]),
            {SKLEARN: decided(sk.f1_score, absent, average="macro"), TORCHMETRICS: macro(f1, absent)},
            lambda: ours(absent, "CF1", cf1="mean"), lambda: sum(by_class(absent, 2)) / 3,
            "a class without positives counts as 0"),
        Row("CF1, cf1 mean", "everywhere", lambda: slow.mean(by_class(everywhere, 2)),
            {SKLEARN: decided(sk.f1_score, everywhere, average="macro"), TORCHMETRICS: macro(f1, everywhere)},
            lambda: ours(everywhere, "CF1", cf1="mean")),
        Row("OF1", "plain", overall(plain),
            {SKLEARN: decided(sk.f1_score, plain, average="micro"), TORCHMETRICS: macro(f1, plain, "micro")},
            lambda: ours(plain, "OF1")),
        Row("OF1", "ties", overall(ties), {SKLEARN: decided(sk.f1_score, ties, average="micro")},
            lambda: ours(ties, "OF1"), why="of decisions made before"),
        Row("OF1", "ties", overall(ties), {TORCHMETRICS: macro(f1, ties, "micro")}, lambda: ours(ties, "OF1"),
            overall(ties, beyond_half), "predicted above 0.5, ours from 0.5 on"),
        Row("OF1", "unknown", overall(unknown), {TORCHMETRICS: macro(f1, unknown, "micro")},
            lambda: ours(unknown, "OF1"), why=IGNORED),
        Row("OF1", "unknown", overall(unknown), {SKLEARN: decided(sk.f1_score, unknown, average="micro")},
            lambda: ours(unknown, "OF1"), "refused", NO_UNKNOWN),
        Row("CF1 from 0.9, cf1 mean", "plain", at_nine, {TORCHMETRICS: collected},
            lambda: ours(plain, "CF1", cf1="mean", threshold=0.9), lambda: slow.mean(by_class(plain, 2)),
            "beside one from 0.5 in a MetricCollection whose first batch predicts nothing: that one's value"),
        Row("Hamming", "plain", lambda: all_wrong(plain),
            {SKLEARN: lambda: sk.hamming_loss(plain.y, plain.p >= 0.5), TORCHMETRICS: macro(hamming, plain)}),
        Row("Hamming", "unknown", lambda: all_wrong(unknown), {TORCHMETRICS: macro(hamming, unknown)}, None,
            lambda: slow.mean(wrong(unknown)), 'mean over classes by default; average="micro" is equal'),
        Row("exact match", "unknown", exact, {TORCHMETRICS: lambda: theirs(unknown, tm.MultilabelExactMatch)},
            why="of the known labels, with ignore_index=-1"),
        Row("Matthews", "plain", mean_mcc,
            {SKLEARN: lambda: np.mean([sk.matthews_corrcoef(plain.y[:, k], plain.p[:, k] > 0.5) for k in range(K)])},
            why="a call per class"),
        Row("Matthews", "plain", mean_mcc, {TORCHMETRICS: lambda: theirs(plain, mcc)}, None,
            lambda: slow.matthews(slow.pooled(plain.p.tolist(), plain.lists[1])),
            "of all entries together, not the mean over classes"),
    ]  # fmt: skip
