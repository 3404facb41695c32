"""The rows of libraries that mlcl does not bring; their numbers come from a process with an environment of its own."""

from typing import Any

import numpy as np
from support.beside import slow
from support.beside.calibrated import BINS
from support.beside.helpers import K
from support.beside.table import Part, Row

from mlcl.analysis import conformal
from mlcl.analysis.evaluation import reliability
from mlcl.analysis.label_issues import confident
from mlcl.analysis.thresholds import fit_temperature

NETCAL, MAPIE, CLEANLAB = "netcal", "MAPIE", "cleanlab"
RECALL = 0.8


def rows(p: dict[str, Part], found: dict[str, Any]) -> list[Row]:
    """All of them; ``found`` is what ``elsewhere_numbers.py`` has written."""

    def number(name: str) -> Any:
        def call() -> float:
            if found[name] == "refused":
                raise ValueError
            return float(found[name])

        return call

    def place(probability: float) -> int:
        return min(int(probability * BINS), BINS - 1)

    def ece(name: str, theirs: Any = None, why: str = "", key: str = "ece") -> Row:
        part = p[name]
        loop = lambda: slow.ece(slow.pooled(part.p.tolist(), part.lists[1]), place)  # noqa: E731
        other = {NETCAL: number(f"{key} {name}")}
        return Row("ECE", name, loop, other, lambda: reliability(part.p, part.y).error, theirs, why)

    def top_label() -> float:
        rows = zip(plain.p.tolist(), plain.y.tolist(), strict=True)
        return slow.ece([(max(q), int(q.index(max(q)) == y.index(max(y)))) for q, y in rows], place)

    def temperature(name: str, theirs: Any, why: str) -> Row:
        part = p[name]
        other = {NETCAL: number(f"temperature {name}")}
        return Row(
            "temperature", name, lambda: best(part.z, part), other, lambda: fit_temperature(*part.exact), theirs, why
        )

    def best(z: Any, part: Part) -> float:
        pairs = slow.pooled(z.tolist(), part.lists[1])
        return slow.temperature(lambda sharpness: slow.cross_entropy([(sharpness * s, t) for s, t in pairs]))

    def inverse_clipped() -> float:
        q = np.clip(saturated.p, eps, 1 - eps)
        return 1 / best(np.log(q) - np.log1p(-q), saturated)

    def risk(threshold: float, above: bool) -> float:
        """The bound of conformal risk control on the share of an image's labels that is missed."""
        rows = zip(plain.p.tolist(), plain.y.tolist(), strict=True)
        images = [[q for q, t in zip(a, b, strict=True) if t] for a, b in rows]
        missed = [slow.mean([not (q > threshold if above else q >= threshold) for q in own]) for own in images if own]
        return (sum(missed) + 1) / (len(missed) + 1)

    def highest() -> float:
        kept = [q for q in sorted(plain.p.ravel().tolist()) if risk(q, False) <= 1 - RECALL + 1e-12]
        below = [q for q in plain.p.ravel().tolist() if q < kept[-1]]
        return (kept[-1] + max(below)) / 2  # midway: the same decisions

    def on_grid() -> float:
        return max(t for t in np.arange(0, 1, 0.01) if risk(t, True) <= 1 - RECALL + 1e-12)

    def doubtful(lists: list[list[int]], k: int) -> list[bool]:
        """Confident learning of one class: the images whose label the scores contradict."""
        q, y = [row[k] for row in plain.p.tolist()], [k in row for row in lists]
        usual = (
            slow.mean([a for a, t in zip(q, y, strict=True) if t]),
            slow.mean([1 - a for a, t in zip(q, y, strict=True) if not t]),
        )
        return [_seems(a, usual) == (not t) for a, t in zip(q, y, strict=True)]

    def flagged(lists: list[list[int]]) -> int:
        return sum(any(row) for row in zip(*(doubtful(lists, k) for k in range(K)), strict=True))

    def issues() -> float:
        return float(confident(plain.p, plain.y).any(1).sum())

    plain, saturated, eps = p["plain"], p["saturated"], np.finfo(np.float64).eps
    multi_hot = [[int(t) for t in row] for row in plain.y]
    lists = [[k for k in range(K) if row[k]] for row in multi_hot]
    controlled = lambda: conformal.thresholds(plain.p, plain.y, RECALL, "images")[0]  # noqa: E731
    return [
        *(ece(name) for name in ("plain", "ties", "saturated", "everywhere")),
        ece("plain", top_label, "multi-hot targets are taken as one-hot: the first label against the highest score",
            "hot ece"),
        temperature("plain", lambda: 1 / best(plain.z, plain), "the inverse, of the pooled entries"),
        temperature("saturated", inverse_clipped, "the inverse, of probabilities clipped to 2.2e-16 from 0 and 1"),
        Row("threshold for recall 0.8", "plain", highest, {MAPIE: number("crc")}, controlled, on_grid,
            "crc of the images with a label: on a grid of 0.01, and predicted above it"),
        Row("threshold for recall 0.8", "plain", highest, {MAPIE: number("crc of all")}, controlled, "refused",
            "takes no image without labels"),
        Row("images with doubtful labels", "plain", lambda: flagged(lists), {CLEANLAB: number("issues")}, issues,
            why="confident_learning, of lists of classes"),
        Row("images with doubtful labels", "plain", lambda: flagged(lists), {CLEANLAB: number("hot issues")}, issues,
            lambda: flagged(multi_hot), "multi-hot rows are taken as lists of classes: 0 and 1 only"),
    ]  # fmt: skip


def _seems(probability: float, usual: tuple[float, float]) -> bool | None:
    """The label that the score says confidently, the likelier one where both are; None where neither is."""
    present, absent = probability > usual[0] + 1e-9, 1 - probability > usual[1] + 1e-9
    if present and absent:
        return probability > 0.5
    return present if present or absent else None
