"""Average precision beside other libraries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn.metrics as sk
import torch
from scipy.special import expit
from support.beside import slow
from support.beside.coco import coco_ap, coco_map
from support.beside.helpers import COCO, IGNORED, NO_UNKNOWN, SKLEARN, TORCHMETRICS, K, classes, ours, theirs
from support.beside.table import Part, Row
from torchmetrics import classification as tm
from torchmetrics.retrieval import RetrievalMAP

from mlcl.comparison.bootstrap import resampled_ap
from mlcl.metrics import average_precision

VOC = "VOC devkit"  # its MATLAB code, written anew


def rows(p: dict[str, Part]) -> list[Row]:
    plain, ties, saturated, unknown, absent, everywhere = p.values()
    ap = slow.average_precision

    def row(
        metric: str, name: str, counted: list[int], others: dict[str, Any], theirs: Any = None, why: str = ""
    ) -> Row:
        part = p[name]
        loop = lambda: slow.mean([classes(part, ap)[k] for k in counted])  # noqa: E731
        return Row(metric, name, loop, others, lambda: ours(part, "mAP"), theirs, why)

    def sk_ap(part: Part, average: str | None = "macro") -> Any:
        return lambda: sk.average_precision_score(part.y, part.z, average=average)

    def tm_ap(part: Part, average: str | None = "macro", **settings: Any) -> Any:
        return lambda: theirs(part, tm.MultilabelAveragePrecision, average=average, **settings)

    def coco(part: Part, counted: list[int]) -> Any:
        return lambda: slow.mean([classes(part, slow.coco_ap)[k] for k in counted])

    def in_two_batches() -> Any:
        low = ((plain.z >= 0) & (plain.z <= 1)).all(1)
        metric = tm.MultilabelAveragePrecision(K)
        for chosen in (low, ~low):
            metric.update(*(part[torch.from_numpy(chosen)] for part in plain.tensors))
        return metric.compute()

    def mixed() -> float:
        low = ((plain.z >= 0) & (plain.z <= 1)).all(1)
        return slow.mean(classes(plain, ap, np.where(low[:, None], plain.z, plain.p)))

    def weighted(part: Part) -> float:
        present = (part.y == 1).sum(0)
        return float(sum(n * a for n, a in zip(present, classes(part, ap), strict=True) if n) / present.sum())

    def images(part: Part, empty: float | None, one: Callable[[slow.Pairs], float] = ap) -> float:
        by_row = [list(zip(z, y, strict=True)) for z, y in zip(*part.lists, strict=True)]
        values = [one(pairs) if any(t for _, t in pairs) else empty for pairs in by_row]
        return slow.mean([v for v in values if v is not None])

    def of_images(part: Part) -> float:
        return average_precision(part.exact[0].T, part.exact[1].T).nanmean().item()

    def retrieval(part: Part, scores: Any) -> Any:
        index = torch.arange(len(part.z)).repeat_interleave(K)
        return RetrievalMAP()(torch.tensor(scores.ravel()), part.tensors[1].flatten(), indexes=index)

    def above_zero(pairs: slow.Pairs) -> float:
        kept = [(s, t * (s > 0)) for s, t in pairs]
        return ap(kept) if any(t for _, t in kept) else 0.0

    micro = lambda part: average_precision(*(x.reshape(-1, 1) for x in part.exact)).item()  # noqa: E731
    drawn = np.random.RandomState(1).multinomial(len(plain.z), np.ones(len(plain.z)) / len(plain.z))

    def repeated() -> float:
        z, y = (np.repeat(x, drawn, axis=0).tolist() for x in (plain.z, plain.y))
        return slow.mean([ap(slow.column(z, y, k)) for k in range(K)])

    def bootstrap() -> Any:
        return resampled_ap(*plain.exact, "none", [torch.tensor(drawn[:, None], dtype=torch.float32)]).mean()

    both, two = [0, 1, 2], [0, 1]
    points = "precision envelope at 101 recalls"
    voc = {"interpolation": "11point"}

    def devkit(part: Part) -> float:
        """VOC2007's evaluation: down the sorted images one by one, equal scores in their order in the file."""
        values = []
        for k in range(K):
            found = part.y[np.argsort(-part.z[:, k], kind="stable"), k].cumsum()
            precision, recall = found / np.arange(1, len(found) + 1), found / found[-1]
            values.append(np.mean([precision[recall >= tenth / 10].max(initial=0) for tenth in range(11)]))
        return float(np.mean(values))

    def eleven(part: Part, in_order: bool = False) -> float:
        def one(pairs: slow.Pairs) -> float:
            ranked = sorted(pairs, key=lambda pair: -pair[0])
            return slow.eleven_points([(-n, t) for n, (_, t) in enumerate(ranked)] if in_order else pairs)

        return slow.mean(classes(part, one))

    f32 = expit(saturated.z.astype(np.float32))
    return [
        row("mAP", "plain", both, {SKLEARN: sk_ap(plain), TORCHMETRICS: tm_ap(plain)}),
        row("mAP", "plain", both, {COCO: lambda: coco_map(plain.z, plain.y)}, coco(plain, both), points),
        Row("mAP, 11point", "plain", lambda: eleven(plain), {VOC: lambda: devkit(plain)},
            lambda: ours(plain, "mAP", **voc)),
        Row("mAP, 11point", "ties", lambda: eleven(ties), {VOC: lambda: devkit(ties)}, lambda: ours(ties, "mAP", **voc),
            lambda: eleven(ties, in_order=True), "equal scores one by one, by their order"),
        row("mAP", "ties", both, {SKLEARN: sk_ap(ties), TORCHMETRICS: tm_ap(ties)}),
        row("mAP", "ties", both, {COCO: lambda: coco_map(ties.z, ties.y)}, coco(ties, both),
            f"{points}; equal scores one by one, by image id"),
        row("mAP", "saturated", both, {SKLEARN: sk_ap(saturated)}),
        row("mAP", "saturated", both, {TORCHMETRICS: tm_ap(saturated)}, lambda: slow.mean(classes(saturated, ap, f32)),
            "ranks float32 probabilities, which are equal at 1"),
        row("mAP", "unknown", both, {SKLEARN: sk_ap(unknown)}, "refused", NO_UNKNOWN),
        row("mAP", "unknown", both, {TORCHMETRICS: tm_ap(unknown)}, why=IGNORED),
        row("mAP", "unknown", both, {COCO: lambda: coco_map(unknown.z, unknown.y)}, coco(unknown, both),
            f"{points}; unknown as iscrowd"),
        row("mAP", "absent", two, {SKLEARN: sk_ap(absent), TORCHMETRICS: tm_ap(absent)},
            lambda: sum(classes(absent, ap)[:2]) / 3, "a class without positives counts as 0"),
        row("mAP", "absent", two, {COCO: lambda: coco_map(absent.z, absent.y)}, coco(absent, two),
            f"{points}; such a class is left out, too"),
        row("mAP", "everywhere", two, {SKLEARN: sk_ap(everywhere), TORCHMETRICS: tm_ap(everywhere)},
            lambda: slow.mean(classes(everywhere, ap)), "a class in every image counts as 1"),
        row("mAP, in two batches", "plain", both, {TORCHMETRICS: in_two_batches}, mixed,
            "sigmoid only in a batch with a score outside [0, 1]"),
        row("mAP, ids from 0", "plain", both, {COCO: lambda: coco_map(plain.z, plain.y, first_id=0)},
            lambda: _unseen(plain), f"{points}; the label with the annotation id 0 counts as not found"),
        Row("weighted AP", "absent", lambda: weighted(absent),
            {SKLEARN: sk_ap(absent, "weighted"), TORCHMETRICS: tm_ap(absent, "weighted")}),
        Row("mAP of a resample", "plain", repeated,
            {SKLEARN: lambda: sk.average_precision_score(plain.y, plain.z, sample_weight=drawn)}, bootstrap),
        *(Row("micro AP", name, lambda part=p[name]: ap(slow.pooled(*part.lists)),
              {SKLEARN: sk_ap(p[name], "micro"), TORCHMETRICS: tm_ap(p[name], "micro")},
              lambda part=p[name]: micro(part))
          for name in ("plain", "ties", "absent")),
        Row("micro AP", "unknown", lambda: ap(slow.pooled(*unknown.lists)), {TORCHMETRICS: tm_ap(unknown, "micro")},
            lambda: micro(unknown), why=IGNORED),
        Row("micro AP", "plain", lambda: ap(slow.pooled(*plain.lists)),
            {COCO: lambda: coco_ap(plain.z, plain.y, categories=False)[0]}, lambda: micro(plain),
            lambda: slow.coco_any_class(*plain.lists), "useCats=0: any label of the image makes any class right"),
        Row("AP of an image", "plain", lambda: images(plain, None),
            {SKLEARN: lambda: sk.average_precision_score(plain.y, plain.z, average="samples"),
             TORCHMETRICS: lambda: retrieval(plain, plain.p)}, lambda: of_images(plain), lambda: images(plain, 0.0),
            "an image without labels counts as 0 (torchmetrics: RetrievalMAP of probabilities)"),
        Row("AP of an image", "plain", lambda: images(plain, None), {TORCHMETRICS: lambda: retrieval(plain, plain.z)},
            lambda: of_images(plain), lambda: images(plain, 0.0, above_zero),
            "RetrievalMAP of logits: a present label with a score of 0 or less counts as absent, too"),
        Row("AP of an image", "ties", lambda: images(ties, None), {TORCHMETRICS: lambda: retrieval(ties, ties.p)},
            lambda: of_images(ties), lambda: images(ties, 0.0, slow.one_by_one),
            "such an image is 0; RetrievalMAP takes equal scores one by one, by class"),
    ]  # fmt: skip


def _unseen(part: Part) -> float:
    """COCO's mAP if the first label is there, but what finds it is wrong."""
    first, values = np.argwhere(part.y == 1)[0].tolist(), []
    for k in range(K):
        pairs = [(z, int(t), [i, k] == first) for i, (z, t) in enumerate(slow.column(*part.lists, k))]
        hits = [t and not missed for _, t, missed in sorted(pairs, key=lambda entry: -entry[0])]
        values.append(slow.points_101([int(hit) for hit in hits], sum(t for _, t, _ in pairs)))
    return slow.mean(values)
