"""Multi-label supervised contrastive loss, label by label (MulCon; SADCL's SSCL without the bank)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcl.losses.base import EmbeddingLoss


class LabelContrastiveLoss(EmbeddingLoss):
    """Pulls embeddings of one class together, pushes those of other present classes away.

    With z a unit embedding, I the set of present (image, view, class) entries, A(i) = I without i, and P(i) the
    members of A(i) of the same class (Dao et al., arXiv 2107.11626; Ma et al., arXiv 2307.09715, L_S2S)::

        L = 1/|I'| sum_{i in I'} -1/|P(i)| sum_{p in P(i)} log( exp(z_i.z_p / t) / sum_{a in A(i)} exp(z_i.z_a / t) )

    I' are the anchors with at least one positive, or all of I with ``compat`` (the official MulCon code). Absent and
    unknown entries enter nowhere, except as ``hard_negatives``. Only present rows are compared: at 32 images, 80
    classes and 2 views about 190 of 5,120.

    Args:
        temperature: t.
        hard_negatives: so many absent entries, those most similar to a present one, join every denominator. (MulCon's
            code takes the highest scored instead; a loss on embeddings does not see scores, so this rule is ours.)
        compat: keep anchors without a positive in the divisor.
    """

    def __init__(self, temperature: float = 0.2, hard_negatives: int = 0, compat: bool = False) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature, self.hard_negatives, self.compat = temperature, hard_negatives, compat

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        by_label = embeddings.transpose(1, 2)  # (B, K, V, D)
        present = targets == 1
        anchors = F.normalize(by_label[present].flatten(0, 1), dim=-1)  # (R, D), the R present rows
        labels = present.nonzero()[:, 1].repeat_interleave(embeddings.shape[1])
        if not len(anchors):
            return (embeddings * 0).sum()
        similarity = anchors @ anchors.T / self.temperature
        itself = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
        others = similarity.masked_fill(itself, -torch.inf)
        if self.hard_negatives:
            others = torch.cat([others, self._hardest(by_label, targets, anchors)], dim=1)
        positive = (labels[:, None] == labels) & ~itself
        count = positive.sum(1)
        # An anchor alone in the batch has an empty denominator: its -inf must not reach the gradient.
        denominator = torch.where(count > 0, others.masked_fill((count == 0)[:, None], 0).logsumexp(1), 0)
        pulled = torch.where(positive, similarity - denominator[:, None], 0).sum(1) / count.clamp(min=1)
        return -pulled.sum() / (len(anchors) if self.compat else (count > 0).sum().clamp(min=1))

    def _hardest(self, by_label: Tensor, targets: Tensor, anchors: Tensor) -> Tensor:
        """Similarities (R, n) of the anchors to the absent rows that come closest to any of them."""
        absent = F.normalize(by_label[targets == 0].flatten(0, 1), dim=-1)
        similarity = anchors @ absent.T / self.temperature
        kept = min(self.hard_negatives, len(absent))
        return similarity[:, similarity.amax(0).topk(kept).indices] if kept else similarity
