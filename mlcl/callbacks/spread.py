"""How far the embeddings of a class still differ from image to image: the opposite of collapse."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

_SCALE = 2.0**28  # finer than fp32 needs; float64 adds up 2 ** 25 of them exactly, more than any batch has
_CLASSES = 512  # at a time: thousands of classes' embeddings fill much of the memory by themselves


class EmbeddingSpread(Metric):
    """One minus the length of the mean unit embedding of a class: 0 where it is the same on every image.

    A contrastive loss over present entries alone can be met by one constant embedding per class: over all images the
    spread then falls to 0.

    The sums are of whole numbers, exact in any order: batches, workers and ranks do not change the last digit.
    ``left`` is the number of images that are still to come to this rank for the first time: those that a sampler
    repeats after them, to fill the ranks, do not enter. None lets all enter.
    """

    left: int | None = None

    full_state_update = False
    sums: Tensor  # (2, K, D) in 1 / _SCALE: over all known entries, and over the present ones
    counts: Tensor  # (2, K)

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, num_classes, dim, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(2, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.per_class = torch.full((2, num_classes), torch.nan)  # as last computed

    def update(self, embeddings: Tensor, targets: Tensor) -> None:
        """Add embeddings (B, K, D) and their targets (B, K) in {1, 0, -1}."""
        if self.left is not None:
            embeddings, targets = embeddings[: self.left], targets[: self.left]
            self.left -= len(targets)
        if embeddings.device.type == "mps":  # which has no float64
            embeddings, targets = embeddings.cpu(), targets.cpu()
        entered = torch.stack([targets >= 0, targets == 1])  # (2, B, K)
        for start in range(0, embeddings.shape[1], _CLASSES):
            some = slice(start, start + _CLASSES)
            unit = F.normalize(embeddings[:, some].float(), dim=-1).double().mul_(_SCALE).round_()
            self.sums[:, some] += torch.einsum("sbk,bkd->skd", entered[:, :, some].double(), unit).to(self.sums)
        self.counts += entered.sum(1).to(self.counts)

    def compute(self) -> dict[str, Tensor]:
        """``spread`` over all images and ``spread_present``, means over the classes with at least two rows."""
        sums, counts = self.sums.cpu(), self.counts.cpu()
        spread = 1 - sums.double().norm(dim=-1) / _SCALE / counts.clamp(min=1)
        self.per_class = torch.where(counts > 1, spread.clamp(min=0), torch.nan).float()
        everywhere, present = self.per_class.nanmean(1)
        return {"spread": everywhere, "spread_present": present}
