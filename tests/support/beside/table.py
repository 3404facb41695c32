"""One table of scores and targets with all that metrics disagree about, and its parts; a row of the comparison."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.special import expit

# Three columns of 80 images, of which some have no label; the first ones are ordinary classes.
PARTS = {
    "plain": [0, 1, 2],
    "ties": [0, 3, 4],  # two with logits rounded to whole numbers, also 0
    "saturated": [0, 5, 6],  # two with logits beyond 20, some of more than 100
    "unknown": [0, 1, 7],  # a third of the last one's targets is -1
    "absent": [0, 1, 8],  # the last one is in no image
    "everywhere": [0, 1, 9],  # the last one is in every image
}


@dataclass
class Part:
    """Some classes of the table."""

    z: Any  # (80, 3) float64, which float32 holds exactly
    y: Any  # (80, 3) int64

    @cached_property
    def p(self) -> Any:
        """(80, 3) float64 probabilities."""
        return expit(self.z)

    @cached_property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What torchmetrics gets: logits (80, 3) float32 and targets."""
        return torch.tensor(self.z, dtype=torch.float32), torch.tensor(self.y)

    @cached_property
    def exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits in float64, and targets."""
        return torch.tensor(self.z), torch.tensor(self.y)

    @cached_property
    def lists(self) -> tuple[list[list[float]], list[list[int]]]:
        """For plain loops."""
        return self.z.tolist(), self.y.tolist()

    @property
    def known(self) -> Any:
        """(80, 3) bool."""
        return self.y >= 0


def parts() -> dict[str, Part]:
    """The parts, from a generator whose numbers numpy keeps for ever."""
    random = np.random.RandomState(0)
    z = random.normal(-0.7, 2, (80, 10))
    sharpness = np.where(np.arange(10) == 0, 2.5, 0.6)  # the first class is scored too carefully, the others too boldly
    y = (random.random_sample(z.shape) < expit(sharpness * z)).astype(np.int64)
    z[:, 3:5] = np.round(z[:, 3:5])
    z[:, 5:7] *= np.where(np.abs(z[:, 5:7]) > 1, 20, 1)
    z[:10, :3] = np.abs(z[:10, :3]) % 1  # ten images whose logits could be probabilities
    y[random.random_sample(80) < 1 / 3, 7] = -1
    y[:, 8], y[:, 9] = 0, 1
    z = z.astype(np.float32).astype(np.float64)
    return {name: Part(z[:, columns], y[:, columns]) for name, columns in PARTS.items()}


@dataclass
class Row:
    """A number of ours beside the same one of other libraries; without ``ours`` it is that of the loop alone."""

    metric: str
    part: str
    loop: Callable[[], float]  # the definition of ours
    others: dict[str, Callable[[], Any]]
    ours: Callable[[], Any] | None = None
    theirs: Callable[[], float] | str | None = None  # the definition of theirs, or "refused"; None: the same as ours
    why: str = ""

    def printed(self) -> tuple[str, ...]:
        """The cells of docs/metrics.md."""
        here = shown(self.loop()) + ("" if self.ours else "*")
        beside = "equal" if self.theirs is None else shown(self.expected())
        return self.metric, self.part, here, ", ".join(self.others), beside, self.why

    def expected(self) -> float | str:
        """What the others give, by its definition."""
        kind = self.loop if self.theirs is None else self.theirs
        return kind if isinstance(kind, str) else kind()


def shown(value: float | str) -> str:
    """As in the document: with four places, or as a count."""
    return (
        value if isinstance(value, str) else f"{value:.0f}" if value > 1 and value == round(value) else f"{value:.4f}"
    )


def value(call: Callable[[], Any]) -> float | str:
    """What a library gives, or that it refuses."""
    try:
        return float(call())
    except (ValueError, RuntimeError):
        return "refused"


def same(one: float | str, other: float | str) -> bool:
    """To what float32 holds; NaN equals NaN."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=2e-6, abs_tol=2e-6)
