"""Multi-label supervised contrastive loss, label by label (MulCon; SADCL's SSCL)."""

from collections.abc import Callable

import torch
from torch import Tensor

from mlcl.losses._rows import present_rows
from mlcl.losses.bank import EmbeddingBank
from mlcl.losses.base import EmbeddingLoss, check_temperature
from mlcl.losses.projector import Projector


class LabelContrastiveLoss(EmbeddingLoss):
    """Pulls embeddings of one class together, pushes those of other present classes away.

    With z a unit embedding, I the present (image, view, class) entries, A(i) = I without i, and P(i) the members of
    A(i) of the same class (Dao et al., arXiv 2107.11626; Ma et al., arXiv 2307.09715, L_S2S)::

        L = 1/|I'| sum_{i in I'} -1/|P(i)| sum_{p in P(i)} log( exp(z_i.z_p / t) / sum_{a in A(i)} exp(z_i.z_a / t) )

    I' are the anchors with at least one positive. Entries of the memory bank join A(i) and P(i) but are no anchors
    (in SADCL's code they are). One constant embedding per class, whatever the image shows, also minimises this loss:
    both papers add it to a trained classifier.

    Args:
        temperature: t.
        hard_negatives: number of absent entries, the nearest to any present one, that join every denominator (MulCon's
            code takes the highest scored).
        compat: divide by all of I instead of I', as the official MulCon code does.
        projection: P, width of a projector (MulCon: 128); 0 compares the embeddings themselves.
        bank: M, entries of the memory bank per class; 0 is none.
        confidence: probability above which a present label's embedding enters the bank.
        num_classes: K, needed for a bank; the command line fills it in.
        dim: D, needed for a projector or a bank; the command line fills it in.
    """

    compares_rows = True

    def __init__(
        self,
        temperature: float = 0.2,
        hard_negatives: int = 0,
        compat: bool = False,
        projection: int = 0,
        bank: int = 0,
        confidence: float = 0.8,
        num_classes: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        if bank and None in (num_classes, dim):
            raise ValueError("a bank needs num_classes and dim")
        if hard_negatives < 0:
            raise ValueError(f"hard_negatives must be at least 0, got {hard_negatives}")
        self.temperature, self.hard_negatives, self.compat = check_temperature(temperature), hard_negatives, compat
        self.carries_content = hard_negatives > 0  # through absent entries, those of the anchor's own class among them
        self.projector = Projector(dim, projection)
        self.bank = EmbeddingBank(num_classes or 0, bank, dim or 0, confidence)

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor | dict[str, Tensor]:
        """The loss, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        return self.contrast(embeddings, targets, self.projector)

    def contrast(self, embeddings: Tensor, targets: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss, where ``project`` takes the embeddings (B, V, K, D) to unit vectors (B, V, K, P)."""
        rows, _, labels, valid = present_rows(embeddings, targets, self.selected_rows)
        anchors = project(rows)  # (R, P)
        candidates, classes, counted = anchors, labels, valid
        stored, stored_labels, filled = self.bank.slots()
        if len(stored):
            candidates = torch.cat([anchors, self.projector(stored.to(embeddings.dtype))])
            classes, counted = torch.cat([labels, stored_labels]), torch.cat([valid, filled])
        similarity = anchors @ candidates.T / self.temperature  # (R, R + N)
        compared = counted & ~torch.eye(*similarity.shape, dtype=torch.bool, device=anchors.device)
        others = similarity.masked_fill(~compared, -torch.inf)
        if self.hard_negatives:
            every, absent = embeddings.flatten(0, 2), (targets == 0)[:, None].expand(embeddings.shape[:3]).flatten()
            with torch.no_grad():  # nearly all entries are absent, few are chosen
                cosines = (anchors @ project(every).T).masked_fill(~valid[:, None], -torch.inf).amax(0)
                score, chosen = cosines.masked_fill(~absent, -torch.inf).topk(min(self.hard_negatives, len(absent)))
            nearest = (anchors @ project(every[chosen]).T).masked_fill(score == -torch.inf, -torch.inf)
            others = torch.cat([others, nearest / self.temperature], dim=1)
        positive = (labels[:, None] == classes) & compared & valid[:, None]
        count = positive.sum(1)
        # An anchor alone in the batch has an empty denominator: its -inf must not reach the gradient.
        denominator = torch.where(count > 0, others.masked_fill((count == 0)[:, None], 0).logsumexp(1), 0)
        pulled = torch.where(positive, similarity - denominator[:, None], 0).sum(1) / count.clamp(min=1)
        return -pulled.sum() / (valid if self.compat else count > 0).sum().clamp(min=1)

    @torch.no_grad()
    def update(self, embeddings: Tensor, targets: Tensor, probabilities: Tensor) -> None:
        """Put confident true positives into the bank."""
        self.bank.update(embeddings, targets, probabilities)
