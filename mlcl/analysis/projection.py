"""Projections of vectors to a few dimensions: principal components, and t-SNE computed exactly.

scikit-learn has both, but takes a second to import, and its approximate t-SNE is slower below a few thousand points.
"""

import math

import numpy as np
import torch
from torch import Tensor

from mlcl.analysis.evaluation import Floats

_STEPS, _EXAGGERATED = 300, 100  # of the gradient descent, in all and at its start
_EXAGGERATION = 12.0  # how much more the vectors attract each other there


def principal(vectors: Floats, count: int) -> Floats:
    """The first ``count`` principal components of vectors (R, D): (R, count), the largest entry of each positive."""
    centred = vectors - vectors.mean(0)
    rows, columns = centred.shape
    if columns <= rows:
        components = centred @ np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
    else:
        squares, directions = np.linalg.eigh(centred @ centred.T)
        components = (directions * np.sqrt(squares.clip(0)))[:, ::-1][:, :count]
    largest = components[np.abs(components).argmax(0), np.arange(components.shape[1])]
    return np.asarray(components * np.where(largest < 0, -1, 1))


def t_sne(vectors: Floats, perplexity: float) -> Floats:
    """Points (R, 2) whose neighbours are those of the vectors (R, D), started from their first two columns.

    van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008, with the learning rate of Belkina et al., Nature
    Communications 2019. Memory and time grow with R squared: 16 bytes a pair of vectors, 300 steps.
    """
    near = _affinities(torch.from_numpy(vectors), perplexity)
    count = len(near)
    points = torch.from_numpy(1e-4 * vectors[:, :2] / vectors[:, 0].std()).float()
    rate, change, gains = max(count / _EXAGGERATION / 4, 50.0), torch.zeros_like(points), torch.ones_like(points)
    pairs = torch.empty(count, count)
    for step in range(_STEPS):
        early = step < _EXAGGERATED
        norms = points.square().sum(1)
        torch.addmm(norms[:, None] + 1, points, points.T, alpha=-2, out=pairs)
        pairs.add_(norms).reciprocal_().fill_diagonal_(0)  # Student's t with one degree of freedom
        force = near.mul(_EXAGGERATION if early else 1).sub_(pairs, alpha=1 / float(pairs.sum())).mul_(pairs)
        gradient = 4 * (force.sum(1, keepdim=True) * points - force @ points)
        gains = torch.where(change * gradient < 0, gains + 0.2, gains * 0.8).clamp_(min=0.01)
        change = (0.5 if early else 0.8) * change - rate * gains * gradient
        points += change
    return points.double().numpy()


def _affinities(vectors: Tensor, perplexity: float) -> Tensor:
    """How much of each vector's neighbourhood another one is, (R, R) float32, symmetric; all of them add up to 1.

    The width of a neighbourhood, found by bisection, gives it the entropy log(perplexity). Beyond three times as many
    neighbours nothing counts.
    """
    distances = torch.cdist(vectors, vectors).square_().fill_diagonal_(torch.inf)
    nearest = distances.topk(min(len(vectors) - 1, math.ceil(3 * perplexity)), largest=False)
    beyond = nearest.values - nearest.values[:, :1]  # so that the nearest one never underflows
    low, high = torch.zeros_like(beyond[:, :1]), torch.full_like(beyond[:, :1], torch.inf)
    narrow = torch.ones_like(low)
    for _ in range(60):
        shares = torch.softmax(-beyond * narrow, 1)
        wide = torch.special.entr(shares).sum(1, keepdim=True) > math.log(perplexity)
        low, high = torch.where(wide, narrow, low), torch.where(wide, high, narrow)
        narrow = torch.where(high.isinf(), narrow * 2, (low + high) / 2)
    near = torch.zeros(distances.shape).scatter_(1, nearest.indices, shares.float())
    return (near + near.T) / (2 * len(near))
