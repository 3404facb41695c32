"""How far the embeddings of a class still differ from image to image: the opposite of collapse."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

_CLASSES = 512  # at a time: thousands of classes' embeddings fill much of the memory by themselves


class EmbeddingSpread(Metric):
    """One minus the length of the mean unit embedding of a class: 0 where it is the same on every image.

    A contrastive loss over present entries alone can be met by one constant embedding per class: over all images the
    spread then falls to 0. Images that a distributed sampler repeats count twice here.
    """

    full_state_update = False
    sums: Tensor  # (2, K, D): over all known entries, and over the present ones
    counts: Tensor  # (2, K)

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, num_classes, dim), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(2, num_classes), dist_reduce_fx="sum")
        self.per_class = torch.full((2, num_classes), torch.nan)  # as last computed

    def update(self, embeddings: Tensor, targets: Tensor) -> None:
        """Add embeddings (B, K, D) and their targets (B, K) in {1, 0, -1}."""
        entered = torch.stack([targets >= 0, targets == 1]).float()  # (2, B, K)
        for start in range(0, embeddings.shape[1], _CLASSES):
            some = slice(start, start + _CLASSES)
            unit = F.normalize(embeddings[:, some].float(), dim=-1)
            self.sums[:, some] += torch.einsum("sbk,bkd->skd", entered[:, :, some], unit)
        self.counts += entered.sum(1)

    def compute(self) -> dict[str, Tensor]:
        """``spread`` over all images and ``spread_present``, means over the classes with at least two rows."""
        spread = 1 - self.sums.norm(dim=-1) / self.counts.clamp(min=1)
        self.per_class = torch.where(self.counts > 1, spread.clamp(min=0), torch.nan).cpu()
        everywhere, present = self.per_class.nanmean(1)
        return {"spread": everywhere, "spread_present": present}
