"""Does a loss carry content: can one embedding per class, whatever the picture shows, reach its least value?"""

from typing import NamedTuple

import torch
from torch import Tensor

from mlcl.losses import EmbeddingLoss

IMAGES, CLASSES, DIM = 16, 4, 8


class Content(NamedTuple):
    """Values of a loss on one batch of labels."""

    constant: float  # the least value with one embedding per class for all images
    least: float  # the least value with an embedding per image and class

    @property
    def distance(self) -> float:
        """What content earns."""
        return self.constant - self.least


def labels(seed: int = 0) -> Tensor:
    """(16, 4) in {1, 0}: every class present in some images and absent in others, every image with a label."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        targets = (torch.rand(IMAGES, CLASSES, generator=generator) < 0.4).long()
        if (targets.sum(0) >= 3).all() and (targets.sum(0) <= IMAGES - 3).all() and targets.any(1).all():
            return targets


def content(loss: EmbeddingLoss, starts: int = 4, steps: int = 300) -> Content:
    """Both least values found, with the loss's own parameters free, from several random starts each."""
    return Content(*(min(_least(loss, free, n, steps) for n in range(starts)) for free in (False, True)))


def _least(loss: EmbeddingLoss, free: bool, seed: int, steps: int) -> float:
    """A local minimum by L-BFGS over embeddings (16, 4, 8), or (4, 8) that all images share."""
    torch.manual_seed(seed)
    loss = loss.double()
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter)
    shape = (IMAGES, CLASSES, DIM) if free else (1, CLASSES, DIM)
    rows, targets = torch.randn(shape, dtype=torch.float64, requires_grad=True), labels()
    search = torch.optim.LBFGS([rows, *loss.parameters()], max_iter=steps, line_search_fn="strong_wolfe")

    def value() -> Tensor:
        search.zero_grad()
        result = loss(torch.nn.functional.normalize(rows, dim=-1).expand(IMAGES, -1, -1), targets)
        result.backward()
        return result

    search.step(value)
    return float(value().detach())
