"""AUROC, coverage error, ranking loss and LRAP beside other libraries: mlcl has none of them."""

from typing import Any

import numpy as np
import sklearn.metrics as sk
from scipy.special import expit
from support.beside import slow
from support.beside.helpers import IGNORED, NO_UNKNOWN, SKLEARN, TORCHMETRICS, K, classes, per_image, theirs
from support.beside.table import Part, Row
from torchmetrics import classification as tm


def rows(p: dict[str, Part]) -> list[Row]:
    """All of them."""
    return [*_auroc(p), *_ranking(p)]


def _auroc(p: dict[str, Part]) -> list[Row]:
    plain, ties, _, unknown, absent, everywhere = p.values()
    auc = tm.MultilabelAUROC

    def defined(part: Part, counted: int = 3) -> Any:
        return lambda: slow.mean(classes(part, slow.auroc)[:counted])

    def weighted(part: Part, otherwise: float | None = None) -> float:
        kept = [(n, a) for n, a in zip((part.y == 1).sum(0), classes(part, slow.auroc), strict=True)]
        kept = [(n, otherwise if np.isnan(a) else a) for n, a in kept if otherwise is not None or not np.isnan(a)]
        return float(sum(n * a for n, a in kept) / sum(n for n, _ in kept))

    zero = "a class without positives or without negatives counts as 0"
    sk_auc = lambda part, how="macro": lambda: sk.roc_auc_score(part.y, part.z, average=how)  # noqa: E731
    tm_auc = lambda part, how="macro": lambda: theirs(part, auc, average=how)  # noqa: E731
    nan, one = lambda: float("nan"), "one class without makes it nan"
    return [
        *(Row("AUROC", name, defined(part), {SKLEARN: sk_auc(part), TORCHMETRICS: tm_auc(part)})
          for name, part in (("plain", plain), ("ties", ties))),
        Row("AUROC", "unknown", defined(unknown), {TORCHMETRICS: tm_auc(unknown)}, why=IGNORED),
        Row("AUROC", "absent", defined(absent, 2), {SKLEARN: sk_auc(absent)}, None, nan, one),
        Row("AUROC", "absent", defined(absent, 2), {TORCHMETRICS: tm_auc(absent)}, None,
            lambda: sum(classes(absent, slow.auroc)[:2]) / 3, zero),
        Row("weighted AUROC", "everywhere", lambda: weighted(everywhere), {SKLEARN: sk_auc(everywhere, "weighted")},
            None, nan, one),
        Row("weighted AUROC", "everywhere", lambda: weighted(everywhere),
            {TORCHMETRICS: tm_auc(everywhere, "weighted")}, None, lambda: weighted(everywhere, 0.0),
            f"{zero}, with the largest weight"),
    ]  # fmt: skip


def _ranking(p: dict[str, Part]) -> list[Row]:
    plain, ties, saturated, unknown, _, _ = p.values()

    def row(metric: str, name: str, library: str, theirs: Any = None, why: str = "") -> Row:
        loop, sk_one, tm_one = _KINDS[metric]
        part = p[name]
        calls = {SKLEARN: lambda: sk_one(part.y, part.z), TORCHMETRICS: lambda: tm_one(K, **known(part))(*part.tensors)}
        others = {one: calls[one] for one in library.split(", ")}
        return Row(metric, name, lambda: per_image(part, loop), others, None, theirs, why)

    def known(part: Part) -> dict[str, int]:
        return {} if part.known.all() else {"ignore_index": -1}

    def in_order() -> float:
        z = ties.z + np.arange(K) * 1e-6  # of equal scores the later class is above
        return per_image(ties, slow.ranking_loss, z)

    def all_labels() -> float:
        rows = zip(*unknown.lists, strict=True)
        return slow.mean([K if min(y) < 0 else slow.by_image(slow.coverage, [z], [y])[0] for z, y in rows])

    def last() -> float:
        return per_image(Part(np.where(unknown.known, unknown.z, -99), unknown.y.clip(0)), slow.ranking_loss)

    def two_batches() -> Any:
        metric, some = tm.MultilabelRankingLoss(K), plain.tensors[1].any(1)
        for chosen in (some, ~some):
            metric.update(*(part[chosen] for part in plain.tensors))
        return metric.compute()

    def fewer() -> float:
        losses = slow.by_image(slow.ranking_loss, *plain.lists)
        return sum(losses) / (int(plain.y.any(1).sum()) + 1)

    single = expit(saturated.z.astype(np.float32))
    both = f"{SKLEARN}, {TORCHMETRICS}"
    return [
        *(row(metric, "plain", both) for metric in _KINDS),
        row("coverage error", "ties", both),
        row("LRAP", "ties", both),
        row("ranking loss", "ties", SKLEARN),
        row("ranking loss", "ties", TORCHMETRICS, in_order, "of equal scores the later class is above"),
        row("coverage error", "saturated", SKLEARN),
        row("coverage error", "saturated", TORCHMETRICS, lambda: per_image(saturated, slow.coverage, single),
            "float32 probabilities, which are equal at 1"),
        *(row(metric, "unknown", SKLEARN, "refused", NO_UNKNOWN) for metric in _KINDS),
        row("coverage error", "unknown", TORCHMETRICS, all_labels,
            "ignore_index: an image with an unknown label counts as all labels"),
        row("ranking loss", "unknown", TORCHMETRICS, last,
            "ignore_index: unknown labels count as absent ones with the lowest score"),
        row("LRAP", "unknown", TORCHMETRICS, why=IGNORED),
        Row("ranking loss, in two batches", "plain", lambda: per_image(plain, slow.ranking_loss),
            {TORCHMETRICS: two_batches}, None, fewer, "a batch of images without labels counts as one image"),
    ]  # fmt: skip


_KINDS: dict[str, tuple[Any, Any, Any]] = {
    "coverage error": (slow.coverage, sk.coverage_error, tm.MultilabelCoverageError),
    "ranking loss": (slow.ranking_loss, sk.label_ranking_loss, tm.MultilabelRankingLoss),
    "LRAP": (
        slow.ranking_precision,
        sk.label_ranking_average_precision_score,
        tm.MultilabelRankingAveragePrecision,
    ),
}
