"""A loss that a constant cannot meet, tried and not taken into the package: docs/results.md has the numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcl.losses import EmbeddingLoss


class PresenceContrastiveLoss(EmbeddingLoss):
    """Every present embedding ranks the other present ones of its class ahead of the class's absent ones.

    With z a unit embedding, Q_k the present (image, view) entries of class k, P(i) = Q_k without i, and N_k the M
    absent entries of class k that are nearest to the mean of Q_k::

        l_i = 1/|P(i)| sum_{p in P(i)} log(1 + sum_{a in N_k} exp((z_ik.z_ak - z_ik.z_pk) / t))
        L   = mean over classes of the mean of l_i over Q_k

    Classes without two present entries, or without an absent one, are left out. The value of a query and a positive is
    the (N+1)-tuplet loss (Sohn, NIPS 2016), here of class-specific embeddings with the absent entries of the same class
    alone. Formula, gradient and optimum: docs/results.md.

    Args:
        temperature: t.
        absents: M, absent entries per class.
    """

    def __init__(self, temperature: float = 0.5, absents: int = 16) -> None:
        super().__init__()
        if not (temperature > 0 and absents > 0):
            raise ValueError(f"temperature and absents must be positive, got {temperature} and {absents}")
        self.temperature, self.absents = temperature, absents

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        views, classes = embeddings.shape[1:3]
        every, target = embeddings.flatten(0, 1), targets.repeat_interleave(views, 0)  # (N, K, D), (N, K)
        image, label = (target == 1).nonzero(as_tuple=True)
        chosen, is_absent = self._nearest_absents(every, target, image, label)  # (M, K)
        # One selection for both, because each would have a gradient as large as all embeddings.
        place = torch.cat([image * classes + label, (chosen * classes + torch.arange(classes)).T.flatten()])
        rows = F.normalize(every.flatten(0, 1)[place], dim=-1)
        queries, absents = rows[: len(image)], rows[len(image) :].unflatten(0, (classes, -1))  # (R, D), (K, M, D)
        similarity = queries @ queries.T / self.temperature
        positive = (label[:, None] == label) & ~torch.eye(len(label), dtype=torch.bool)
        away = torch.einsum("rd,rmd->rm", queries, absents[label]) / self.temperature
        has_absent = is_absent.any(0)[label]
        away = away.masked_fill(~is_absent.T[label] & has_absent[:, None], -torch.inf).logsumexp(1)
        count = positive.sum(1)
        each = torch.where(positive, F.softplus(away[:, None] - similarity), 0).sum(1) / count.clamp(min=1)
        counted = ((count > 0) & has_absent).to(each)
        total, queried = (each.new_zeros(classes).index_add(0, label, v) for v in (each * counted, counted))
        return (total / queried.clamp(min=1)).sum() / (queried > 0).sum().clamp(min=1)

    @torch.no_grad()
    def _nearest_absents(self, every: Tensor, target: Tensor, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Of every class the rows nearest to the mean of its present ones, (M, K), and which of them are absent."""
        mean = every.new_zeros(every.shape[1:]).index_add_(0, label, F.normalize(every[image, label], dim=-1))
        cosines = (F.normalize(every, dim=-1) * mean).sum(-1).masked_fill(target != 0, -torch.inf)
        score, chosen = cosines.topk(min(self.absents, len(every)), dim=0)
        return chosen, score > -torch.inf
