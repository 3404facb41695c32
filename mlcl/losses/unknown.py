"""What an unknown label counts as in a classification loss: the rules of four papers, around any of the losses."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcl.losses.base import ClassificationLoss

Rule = Literal[
    "ignore",
    "negative",
    "weak_negative",
    "entropy",
    "large_loss",
    "large_loss_temporary",
    "large_loss_permanent",
]
UNKNOWN, LEFT_OUT = -1, -2  # LEFT_OUT: in no loss by any rule, as the labels of a picture that cannot be read
# Alpha is the paper's for COCO. For large losses the share by which each form grows in an epoch, or corrects; the
# authors choose among 0.1 to 0.5 per cent.
WEIGHTS = {"entropy": 0.1, "large_loss": 0.005, "large_loss_temporary": 0.002, "large_loss_permanent": 0.001}


def loss_with_unknown(
    loss: ClassificationLoss,
    logits: Tensor,
    targets: Tensor,
    rule: Rule = "ignore",
    weight: float | None = None,
    epoch: int = 0,
) -> Tensor:
    """The loss L of a step, with its unknown entries as the rule has them.

    With s the share of known entries if L is their mean (``reduction`` mean), else 1, and N, of which n are unknown,
    the number of entries::

        ignore          L(unknown left out)
        negative        L(unknown as absent)
        weak_negative   g L(unknown as absent) + (1 - g) s L(unknown left out)
        entropy         s L(unknown left out) - a / N sum over unknown H(p), H(p) = -p log p - (1 - p) log(1 - p)
        large_loss...   L(unknown as absent, but the likely false ones left out or present); see :func:`largest`

    For binary cross-entropy, and every other mean over entries, weak_negative is 1/N [sum over known l + g sum over
    unknown l(absent)], WAN of Cole et al. (CVPR 2021, arXiv 2106.09708), and entropy is 1/N [sum over known l - a sum
    over unknown H], EM of Zhou et al. (ECCV 2022, arXiv 2203.16219); with batchmean both are that times K. For losses
    that compare entries they are our reading. Large losses: Kim et al. (CVPR 2022, arXiv 2206.03740), who reject
    (large_loss), or count as present (large_loss_temporary), the share epoch * weight of the entries. Corrections for
    good (large_loss_permanent) need a memory, so they are made before: what is still unknown counts as absent here.

    Args:
        loss: L.
        logits: (B, K) float.
        targets: (B, K) integer in {1 present, 0 absent, -1 unknown, -2 in no loss by any rule}.
        rule: see above.
        weight: g (by default 1 / (K - 1)), a (0.1), or the share of an epoch (0.005, temporary 0.002).
        epoch: of the training, from 0, in which nothing is taken for a large loss.

    Returns:
        Scalar, as of L.
    """
    unknown, without = targets == UNKNOWN, targets.clamp(min=UNKNOWN)
    absent = without.masked_fill(unknown, 0)

    def of(targets: Tensor) -> Tensor:
        value: Tensor = loss(logits, targets)
        return value

    if rule == "ignore":
        return of(without)
    if rule in ("negative", "large_loss_permanent"):
        return of(absent)
    if rule in ("large_loss", "large_loss_temporary"):
        share = epoch * (WEIGHTS[rule] if weight is None else weight)
        code = UNKNOWN if rule == "large_loss" else 1
        return of(absent.masked_fill(largest(logits, targets, share), code))
    known, entered = of(without), (targets > LEFT_OUT).sum().clamp(min=1)
    if loss.reduction == "mean":
        known = known * ((targets >= 0).sum().to(known) / entered)
    if rule == "weak_negative":
        gamma = 1 / max(logits.shape[1] - 1, 1) if weight is None else weight
        return gamma * of(absent) + (1 - gamma) * known
    alpha = WEIGHTS[rule] if weight is None else weight
    entropies = torch.where(unknown, binary_entropy(logits), 0).sum()
    return known - alpha * entropies / (len(logits) if loss.reduction == "batchmean" else entered)


def binary_entropy(logits: Tensor) -> Tensor:
    """H(p) in nats of p = sigmoid(logits), of any shape, in at least fp32; value and gradient 0 far from 0."""
    size = logits.to(torch.promote_types(logits.dtype, torch.float32)).abs()
    return F.softplus(-size) + size * torch.sigmoid(-size)


@torch.no_grad()
def largest(logits: Tensor, targets: Tensor, share: float) -> Tensor:
    """(B, K) bool: the unknown entries that would have the largest losses as absent ones, the likely false ones.

    The loss of an absent entry, -log(1 - p), grows with its logit, and so does every other classification loss here
    in an absent logit: the ranking is by logit. ``k = ceil(share * B * K)`` counts all entries of the step, the known
    ones too, as the paper's code does; entries that are as large as the k-th are taken with it. Where fewer than k
    are unknown, all of those are taken.

    Args:
        logits: (B, K) float.
        targets: (B, K) integer; only -1 is unknown.
        share: of the entries of the step; 0 takes none.
    """
    unknown = targets == UNKNOWN
    k = min(math.ceil(share * unknown.numel() - 1e-6), unknown.numel())  # 3 * 0.1 of 10 is 3, not 4
    if k <= 0:
        return torch.zeros_like(unknown)
    ranked = logits.detach().masked_fill(~unknown, -torch.inf)
    return unknown & (ranked >= ranked.flatten().topk(k).values[-1])


def corrected_share(weight: float | None, epoch: int) -> float:
    """The share that the permanent form corrects in each step of an epoch (from 0): of the first, none."""
    return 0.0 if epoch == 0 else WEIGHTS["large_loss_permanent"] if weight is None else weight
