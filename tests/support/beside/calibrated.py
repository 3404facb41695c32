"""ECE, temperature and losses beside other libraries."""

from typing import Any

import numpy as np
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from support.beside import slow
from support.beside.helpers import IGNORED, NO_UNKNOWN, SKLEARN, TORCHMETRICS, K
from support.beside.table import Part, Row
from torchmetrics import classification as tm

from mlcl.analysis.evaluation import reliability
from mlcl.analysis.thresholds import fit_temperature
from mlcl.losses import BinaryCrossEntropy

BINS = 15


def rows(p: dict[str, Part]) -> list[Row]:
    """All of them."""
    return [*_calibration(p), *_losses(p)]


def _calibration(p: dict[str, Part]) -> list[Row]:
    plain, _, saturated, unknown, _, _ = p.values()

    def place(probability: float) -> int:
        return min(int(probability * BINS), BINS - 1)

    def row(name: str, part: Part, theirs: Any = None, why: str = "") -> Row:
        def pooled() -> Any:
            z, y = (x.flatten() for x in part.tensors)
            return tm.BinaryCalibrationError(BINS, ignore_index=None if part.known.all() else -1)(z, y)

        loop = lambda: slow.ece(slow.pooled(part.p.tolist(), part.lists[1]), place)  # noqa: E731
        return Row("ECE", name, loop, {TORCHMETRICS: pooled}, lambda: reliability(part.p, part.y).error, theirs, why)

    single = expit(saturated.z.astype(np.float32)).astype(np.float64)  # 1 from a logit of 17 on
    own_bin = lambda: slow.ece(slow.pooled(single.tolist(), saturated.lists[1]), lambda q: int(q * BINS))  # noqa: E731

    def loss(sharpness: float) -> float:
        return slow.cross_entropy([(sharpness * z, t) for z, t in slow.pooled(*plain.lists)])

    def beta() -> float:
        lines, labels = plain.z.reshape(-1, 1), plain.y.ravel()
        pooled = LogisticRegression().fit(lines, labels)
        pooled.coef_, pooled.intercept_ = np.ones((1, 1)), np.zeros(1)  # its decision function is the logit
        fitted = CalibratedClassifierCV(FrozenEstimator(pooled), method="temperature", ensemble=False).fit(
            lines, labels
        )
        return fitted.calibrated_classifiers_[0].calibrators[0].beta_

    hot = lambda: CalibratedClassifierCV(LogisticRegression()).fit(plain.z, plain.y)  # noqa: E731
    fitted, here = lambda: slow.temperature(loss), lambda: fit_temperature(*plain.exact)
    return [
        row("plain", plain),
        row("unknown", unknown, why=IGNORED),
        row("saturated", saturated, own_bin, "a probability of 1 (in float32) has a bin of its own"),
        Row("temperature", "plain", fitted, {SKLEARN: beta}, here, lambda: 0.5 / slow.temperature(loss),
            "beta_ of the pooled entries is half the inverse: the softmax of (-z, z) is sigmoid(2 z)"),
        Row("temperature", "plain", fitted, {SKLEARN: hot}, here, "refused", "takes no multi-hot targets"),
    ]  # fmt: skip


def _losses(p: dict[str, Part]) -> list[Row]:
    plain, _, saturated, unknown, _, _ = p.values()

    def row(name: str, others: dict[str, Any], theirs: Any = None, why: str = "") -> Row:
        part = p[name]
        loop = lambda: slow.cross_entropy(slow.pooled(*part.lists))  # noqa: E731
        return Row("log loss", name, loop, others, lambda: BinaryCrossEntropy()(*part.exact), theirs, why)

    def clipped(part: Part, least: float) -> float:
        own = [q if t else 1 - q for q, t in slow.pooled(part.p.tolist(), part.lists[1])]
        return -float(np.log(np.clip(own, least, 1)).mean())

    def present_only() -> float:
        return -float((plain.y * np.log(plain.p)).sum(1).mean())

    def margin() -> Any:
        return F.multilabel_margin_loss(*plain.exact)

    def as_lists() -> float:
        """A row is read up to its first -1 as class numbers; multi-hot, it names classes 0 and 1."""
        total = 0.0
        for z, y in zip(*plain.lists, strict=True):
            named = set(y)
            total += sum(max(0.0, 1 - (z[a] - z[b])) for a in y for b in range(K) if b not in named) / K
        return total / len(plain.z)

    def as_meant() -> float:
        total = 0.0
        for z, y in zip(*plain.lists, strict=True):
            total += sum(max(0.0, 1 - (z[a] - z[b])) for a in range(K) for b in range(K) if y[a] and not y[b]) / K
        return total / len(plain.z)

    squared = lambda: slow.mean([(q - t) ** 2 for q, t in slow.pooled(plain.p.tolist(), plain.lists[1])])  # noqa: E731
    z, y = (x.ravel() for x in (saturated.p, saturated.y))
    torch_bce = lambda: F.binary_cross_entropy(*(torch.tensor(x, dtype=torch.float64) for x in (z, y)))  # noqa: E731
    eps = np.finfo(np.float64).eps
    return [
        row("plain", {"torch": lambda: F.binary_cross_entropy_with_logits(plain.exact[0], plain.exact[1].double()),
                      SKLEARN: lambda: sk.log_loss(plain.y.ravel(), plain.p.ravel())}),
        row("plain", {SKLEARN: lambda: sk.log_loss(plain.y, plain.p)}, present_only,
            "a multi-hot matrix: -log p of the present labels, summed over the image; absent ones cost nothing"),
        row("saturated", {"torch": lambda: F.binary_cross_entropy_with_logits(
            saturated.exact[0], saturated.exact[1].double())}),
        row("saturated", {"torch": torch_bce}, lambda: clipped(saturated, np.exp(-100)),
            "of probabilities: log p is at least -100, and 1 - p is rounded"),
        row("saturated", {SKLEARN: lambda: sk.log_loss(y, z)}, lambda: clipped(saturated, eps),
            "p is clipped to 2.2e-16 from 0 and 1 (float32: 1.2e-7)"),
        row("unknown", {SKLEARN: lambda: sk.log_loss(unknown.y, unknown.p)}, "refused", NO_UNKNOWN),
        Row("Brier", "plain", squared, {SKLEARN: lambda: sk.brier_score_loss(plain.y.ravel(), plain.p.ravel())}),
        Row("Brier", "plain", squared, {SKLEARN: lambda: sk.brier_score_loss(plain.y, plain.p)}, None,
            lambda: K * squared(), "a multi-hot matrix: summed over the classes, not their mean"),
        Row("margin loss", "plain", as_meant, {"torch": margin}, None, as_lists,
            "multilabel_margin_loss reads a multi-hot row as class numbers"),
    ]  # fmt: skip
