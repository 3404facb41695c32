"""Present embeddings of one class close, those of different classes apart (Hassanin et al.)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcl.losses._rows import present_rows
from mlcl.losses.base import EmbeddingLoss, masked_mean


class DiscriminativeLoss(EmbeddingLoss):
    """Small distances within a class, large ones between classes.

    With z a unit embedding, d the Euclidean distance, P the pairs of present entries of one class, N the pairs of
    present entries of two classes::

        margin:  L = mean_P d^2        + beta mean_N max(0, m - d)^2
        cosine:  L = mean_P (1 - cos)  + beta mean_N max(0, cos - m)

    One constant embedding per class, each at a distance of m from all others, meets it whatever the images show.

    Inferred from "Learning Discriminative Representations for Multi-Label Image Recognition" (arXiv 2107.11159), whose
    equation and settings are not public: both forms, ``scope`` and every default are our reading.

    Args:
        form: ``margin`` (the classical contrastive loss) or ``cosine``.
        margin: m; by default 1 for ``margin`` (a distance, at most 2) and 0 for ``cosine``.
        beta: weight of the pairs of two classes.
        scope: N from the whole ``batch``, or only from within each ``image`` (co-occurring classes).
    """

    carries_content = False
    compares_rows = True

    def __init__(
        self,
        form: Literal["margin", "cosine"] = "margin",
        margin: float | None = None,
        beta: float = 1.0,
        scope: Literal["image", "batch"] = "batch",
    ) -> None:
        super().__init__()
        if form not in ("margin", "cosine"):
            raise ValueError(f"form must be margin or cosine, got {form!r}")
        if scope not in ("image", "batch"):
            raise ValueError(f"scope must be image or batch, got {scope!r}")
        self.form, self.beta, self.scope = form, beta, scope
        self.margin = margin if margin is not None else {"margin": 1.0, "cosine": 0.0}[form]

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """The loss, from (B, V, K, D) embeddings and (B, K) targets in {1, 0, -1}."""
        rows, image, label, valid = present_rows(embeddings, targets, self.selected_rows)
        unit = F.normalize(rows, dim=-1)  # (R, D)
        cosine = unit @ unit.T
        pair, same_class = valid[:, None] & valid, label[:, None] == label
        within = pair & same_class & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        between = pair & ~same_class & ((image[:, None] == image) if self.scope == "image" else True)
        if self.form == "margin":
            pull = (2 - 2 * cosine).clamp(min=0)
            # The root's slope is infinite at 0: there the gradient is left out.
            push = (self.margin - pull.clamp(min=1e-12).sqrt()).clamp(min=0).square()
        else:
            pull, push = 1 - cosine, (cosine - self.margin).clamp(min=0)
        return masked_mean(pull, within) + self.beta * masked_mean(push, between)
