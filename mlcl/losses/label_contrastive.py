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

    With z a unit embedding, I the set of present (image, view, class) entries, A(i) = I without i, and P(i) the
    members of A(i) of the same class (Dao et al., arXiv 2107.11626; Ma et al., arXiv 2307.09715, L_S2S)::

        L = 1/|I'| sum_{i in I'} -1/|P(i)| sum_{p in P(i)} log( exp(z_i.z_p / t) / sum_{a in A(i)} exp(z_i.z_a / t) )

    I' are the anchors with at least one positive, or all of I with ``compat`` (the official MulCon code). Absent and
    unknown entries enter nowhere, except as ``hard_negatives``. Entries of the memory bank join every A(i), and P(i)
    where they are of its class; they are not anchors themselves (our reading of SADCL, whose code also takes them as
    anchors). Only present rows are compared: at 32 images, 80 classes and 2 views about 190 of 5,120.

    It can be met by one constant embedding per class, whatever the image shows, so from scratch it fights the
    classifier: both papers add it to a trained one.

    Args:
        temperature: t.
        hard_negatives: so many absent entries, those most similar to a present one, join every denominator. (MulCon's
            code takes the highest scored instead, and only fills up to that many rows in all; a loss on embeddings
            does not see scores, so this rule is ours.)
        compat: keep anchors without a positive in the divisor.
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
        self.projector = Projector(dim, projection)
        self.bank = EmbeddingBank(num_classes or 0, bank, dim or 0, confidence)

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        rows, labels, filled = self.bank.slots()
        bank = (rows.to(embeddings.dtype), labels, filled) if len(rows) else None
        settings = self.temperature, bank, self.hard_negatives, self.compat, self.selected_rows
        return label_contrastive(embeddings, targets, self.projector, *settings)

    @torch.no_grad()
    def update(self, embeddings: Tensor, targets: Tensor, probabilities: Tensor) -> None:
        """Put confident true positives into the bank."""
        self.bank.update(embeddings, targets, probabilities)


def label_contrastive(
    embeddings: Tensor,
    targets: Tensor,
    project: Callable[[Tensor], Tensor],
    temperature: float,
    bank: tuple[Tensor, Tensor, Tensor] | None = None,
    hard_negatives: int = 0,
    compat: bool = False,
    capacity: int | None = None,
) -> Tensor:
    """The formula of :class:`LabelContrastiveLoss` as a function.

    Args:
        embeddings: (B, V, K, D).
        targets: (B, K) in {1, 0, -1}.
        project: (..., D) to unit vectors (..., P).
        temperature: t.
        bank: further embeddings (N, D), their classes (N,) and which of them count (N,), bool.
        hard_negatives: as of the class.
        compat: as of the class.
        capacity: number of rows to select, see :func:`~mlcl.losses._rows.present_rows`.
    """
    rows, _, labels, valid = present_rows(embeddings, targets, capacity)
    anchors = project(rows)  # (R, P)
    candidates, classes, counted = anchors, labels, valid
    if bank is not None:
        candidates, classes = torch.cat([anchors, project(bank[0])]), torch.cat([labels, bank[1]])
        counted = torch.cat([valid, bank[2]])
    similarity = anchors @ candidates.T / temperature  # (R, R + N)
    compared = counted & ~torch.eye(*similarity.shape, dtype=torch.bool, device=anchors.device)
    others = similarity.masked_fill(~compared, -torch.inf)
    if hard_negatives:
        nearest = _nearest_absent(project, embeddings, targets, anchors, valid, hard_negatives)
        others = torch.cat([others, nearest / temperature], dim=1)
    positive = (labels[:, None] == classes) & compared & valid[:, None]
    count = positive.sum(1)
    # An anchor alone in the batch has an empty denominator: its -inf must not reach the gradient.
    denominator = torch.where(count > 0, others.masked_fill((count == 0)[:, None], 0).logsumexp(1), 0)
    pulled = torch.where(positive, similarity - denominator[:, None], 0).sum(1) / count.clamp(min=1)
    return -pulled.sum() / (valid if compat else count > 0).sum().clamp(min=1)


def _nearest_absent(
    project: Callable[[Tensor], Tensor],
    embeddings: Tensor,
    targets: Tensor,
    anchors: Tensor,
    valid: Tensor,
    number: int,
) -> Tensor:
    """Cosines (R, number) of the anchors with the absent entries that come closest to any of them; -inf is none.

    The search has no graph: nearly all entries are absent, and few of them are chosen.
    """
    every = embeddings.flatten(0, 2)
    absent = (targets == 0)[:, None].expand(embeddings.shape[:3]).flatten()
    with torch.no_grad():
        cosines = (anchors @ project(every).T).masked_fill(~valid[:, None], -torch.inf)
        score, chosen = cosines.amax(0).masked_fill(~absent, -torch.inf).topk(min(number, len(absent)))
    return (anchors @ project(every[chosen]).T).masked_fill(score == -torch.inf, -torch.inf)
