"""A memory of embeddings per class, for classes that have no partner in the batch."""

import torch
from torch import Tensor, nn


class EmbeddingBank(nn.Module):
    """Ring buffer of the last M confident true positives of each class.

    It keeps embeddings detached and before the projector, so that they are compared under its present weights. SADCL
    (arXiv 2307.09715) keeps one entry per class and position in the batch; the ring is ours, and its shape does not
    depend on the batch size.

    Args:
        num_classes: K.
        size: M, entries per class; 0 is a bank that stays empty.
        dim: D.
        confidence: probability above which a present label's embedding is kept (SADCL: 0.8).
    """

    rows: Tensor  # (K, M, D) float32
    written: Tensor  # (K,) int64, entries ever written per class; the next goes to slot written % M

    def __init__(self, num_classes: int, size: int, dim: int, confidence: float = 0.8) -> None:
        super().__init__()
        if size < 0 or not 0 <= confidence <= 1:
            raise ValueError(f"bank must be at least 0 and confidence lie in [0, 1]: {size} and {confidence}")
        self.size, self.confidence = size, confidence
        self.register_buffer("rows", torch.zeros(num_classes, size, dim))
        self.register_buffer("written", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def update(self, embeddings: Tensor, targets: Tensor, probabilities: Tensor) -> None:
        """Append in the order of images and views; arguments as of :meth:`EmbeddingLoss.update`."""
        if not self.size:
            return
        views, (classes, size, _) = embeddings.shape[1], self.rows.shape
        # An embedding that is not finite comes from a step that overflowed and is skipped.
        confident = (targets == 1)[:, None] & (probabilities > self.confidence) & embeddings.isfinite().all(-1)
        confident = confident.flatten(0, 1)  # (B * V, K), in order
        count = confident.sum(0)
        number = confident.cumsum(0) - 1  # of an entry among its class's
        kept = confident & (number >= count - size)  # of more than M, the last M
        slot = torch.arange(classes, device=count.device) * size + (self.written + number) % size
        # For every slot the place of its new row in the batch; what is not kept goes to a last slot, which is cut off.
        source = count.new_full((classes * size + 1,), -1)
        place = torch.arange(len(confident), device=count.device)[:, None].expand_as(slot)
        source.scatter_(0, slot.where(kept, classes * size).flatten(), place.flatten())
        source = source[:-1].view(classes, size)
        image, view = source.clamp(min=0) // views, source.clamp(min=0) % views
        new = embeddings[image, view, torch.arange(classes, device=count.device)[:, None]].to(self.rows.dtype)
        # Not in place, because this step's backward pass still needs the old ones.
        self.rows = torch.where((source >= 0)[..., None], new, self.rows)
        self.written = self.written + count

    @torch.no_grad()
    def start_from(self, means: Tensor, known: Tensor) -> None:
        """Put the class means (K, D) in as first entries where ``known`` (K,) bool, as SADCL does."""
        if self.size:
            known = known & (self.written == 0)
            self.rows[known, 0] = means.to(self.rows)[known]
            self.written += known

    def slots(self) -> tuple[Tensor, Tensor, Tensor]:
        """All slots, also empty ones: rows (K * M, D), their classes (K * M,) and whether they are filled (K * M,)."""
        slot, label = (torch.arange(n, device=self.rows.device) for n in (self.size, len(self.rows)))
        filled = slot < self.written[:, None]  # (K, M)
        return self.rows.flatten(0, 1), label[:, None].expand_as(filled).flatten(), filled.flatten()
