"""Linear heads on pooled features: the number that a trained head has to beat, and scores of held-out images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mlcl.analysis.measures import Interpolation, average_precision, count

_FOLDS = 5
_MOST = 10_000  # training images; of more, so many at random
# Penalties on the squared weights of standardised features, per training image.
_RIDGE = tuple(10.0**power for power in range(-3, 4))
_LOGISTIC = tuple(10.0**power for power in range(-4, 1))
_HELD_OUT: tuple[float, ...] = (0.1, 1.0, 10.0)
_ITERATIONS = 60

Fit = Callable[[Tensor, Tensor, tuple[float, ...]], Tensor]


@dataclass(frozen=True)
class Probe:
    """The best of the grid."""

    kind: str  # ridge or logistic
    penalty: float  # on the squared weights, per training image
    images: int  # that it was fitted on
    validated: float  # mAP over the folds of these images, which chose it, in [0, 1]
    mAP: float  # of the images it was made for, in [0, 1]; NaN where no class has an AP, as in the metrics


def probe(
    features: Tensor, targets: Tensor, test: Tensor, test_targets: Tensor, interpolation: Interpolation = "none"
) -> Probe | None:
    """Fit every head of the grid on training features, choose by five folds of the training images, score once.

    None for fewer than two training images, of which none could be held out, and where no class is known to be both
    present and absent in them.

    Args:
        features: (N, C) float, of the training images.
        targets: (N, K) in {1, 0, -1}; unknown ones enter no fit.
        test: (M, C) float.
        test_targets: (M, K).
        interpolation: of average precision.
    """
    if len(features) < 2 or not ((targets == 1).any(0) & (targets == 0).any(0)).any():
        return None
    with torch.inference_mode(False), torch.enable_grad():  # within a test, too
        return _best(features, targets, test, test_targets, interpolation)


def _best(features: Tensor, targets: Tensor, test: Tensor, test_targets: Tensor, interpolation: Interpolation) -> Probe:
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:_MOST]
    features, targets = features[order], targets[order]
    fold = torch.arange(len(features)) % _FOLDS
    best: tuple[float, str, float] | None = None
    for kind, (fit, penalties) in _GRID.items():
        scores = torch.zeros(len(penalties), *targets.shape, dtype=torch.float64)
        for held in range(min(_FOLDS, len(features))):
            own = fold != held
            scores[:, ~own] = _scores(fit, penalties, features[own], targets[own], features[~own])
        for penalty, one in zip(penalties, scores, strict=True):
            value = _mean_ap(one, targets, interpolation)
            if best is None or value > best[0]:
                best = value, kind, penalty
    assert best is not None
    validated, kind, penalty = best
    (scores,) = _scores(_GRID[kind][0], (penalty,), features, targets, test)
    return Probe(kind, penalty, len(features), validated, _mean_ap(scores, test_targets, interpolation))


def held_out_logits(features: Tensor, targets: Tensor, parts: Tensor) -> Tensor | None:
    """Logits (N, K) float64 of every image from logistic heads that were fitted without its part.

    The penalty is the one with the lowest cross-entropy on the first part: the average precision of labels of which
    some are wrong prefers penalties that fit the wrong ones.

    Args:
        features: (N, C) float.
        targets: (N, K) in {1, 0, -1}.
        parts: (N,) int64; images with one number, such as copies of one picture, are left out together.

    Returns:
        None for images of a single part, none of which could be held out.
    """
    names = torch.from_numpy(np.unique(parts.numpy()))
    if len(names) < 2:
        return None
    random = torch.Generator().manual_seed(0)
    fold = torch.empty(int(names.max()) + 1, dtype=torch.int64)
    fold[names[torch.randperm(len(names), generator=random)]] = torch.arange(len(names)) % _FOLDS
    own, penalties = fold[parts], _HELD_OUT
    with torch.inference_mode(False), torch.enable_grad():  # within a test, too
        logits = torch.zeros(targets.shape, dtype=torch.float64)
        for held in range(min(_FOLDS, len(names))):
            rest, left_out = (own != held).nonzero()[:, 0], own == held
            rest = rest[torch.randperm(len(rest), generator=random)[:_MOST]]
            scores = _scores(_logistic, penalties, features[rest], targets[rest], features[left_out])
            known, labels = targets[left_out] >= 0, (targets[left_out] == 1).double()
            losses = [float(binary_cross_entropy_with_logits(one[known], labels[known])) for one in scores]
            best = min(range(len(losses)), key=losses.__getitem__)
            logits[left_out], penalties = scores[best], (penalties[best],)
    return logits


def _mean_ap(scores: Tensor, targets: Tensor, interpolation: Interpolation) -> float:
    values = average_precision(scores, targets, interpolation)
    values[count(targets == 0) == 0] = torch.nan  # as in MultiLabelMetrics
    return float(values.nanmean())


def _scores(fit: Fit, penalties: tuple[float, ...], features: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    """Scores (penalties, M, K) of other images, by heads fitted on standardised features with a constant one."""
    wide = features.double()
    mean, std = wide.mean(0), wide.std(0, correction=0).clamp(min=1e-6)
    weights = fit((wide - mean) / std, targets, penalties)
    scaled = (others.double() - mean) / std
    return torch.stack([scaled @ one[:-1] + one[-1] for one in weights])


def _ridge(x: Tensor, targets: Tensor, penalties: tuple[float, ...]) -> Tensor:
    """(penalties, C + 1, K) weights of least squares on targets 1 and -1, for an unknown one the class's mean.

    In the smaller of the two spaces, of features or of images: w = x^T (x x^T + n p)^-1 y.
    """
    known = targets >= 0
    signs = torch.where(known, 2.0 * targets.double() - 1, 0.0)
    mean = signs.sum(0) / known.sum(0).clamp(min=1)
    residual = torch.where(known, signs - mean, 0.0)
    small = x.shape[0] < x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.T if small else x.T @ x)
    within = vectors.T @ (residual if small else x.T @ residual)
    solved = [vectors @ (within / (values.clamp(min=0) + len(x) * p)[:, None]) for p in penalties]
    return torch.stack([torch.cat([x.T @ one if small else one, mean[None]]) for one in solved])


def _logistic(x: Tensor, targets: Tensor, penalties: tuple[float, ...]) -> Tensor:
    """(penalties, C + 1, K) weights of logistic regression: all classes and penalties in one minimisation."""
    # The weights lie in the span of the images, of which there may be fewer than channels.
    basis = torch.linalg.qr(x.T).Q if x.shape[0] < x.shape[1] else torch.eye(x.shape[1], dtype=x.dtype)
    inputs = torch.cat([x @ basis, torch.ones(len(x), 1, dtype=x.dtype)], 1).float()
    known, present = (targets >= 0).float(), (targets == 1).float()
    known, present = (part.repeat(1, len(penalties)) for part in (known, present))
    weights = torch.zeros(inputs.shape[1], known.shape[1], requires_grad=True)
    strength = torch.tensor(penalties).repeat_interleave(targets.shape[1])
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fits = binary_cross_entropy_with_logits(inputs @ weights, present, known, reduction="sum")
        total = fits / len(x) + (strength * weights[:-1].square().sum(0)).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = torch.unflatten(weights.detach().double(), 1, (len(penalties), -1)).transpose(0, 1)
    return torch.cat([basis @ found[:, :-1], found[:, -1:]], 1)


_GRID: dict[str, tuple[Fit, tuple[float, ...]]] = {"ridge": (_ridge, _RIDGE), "logistic": (_logistic, _LOGISTIC)}
