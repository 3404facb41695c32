"""Class-specific embeddings: collected, projected, and their distances.

An entry is one class on one image, with the network's embedding of that class there, scaled to unit length. Distances
are cosine distances, 1 - cosine: 0 for the same direction, 1 for a right angle, 2 for opposite directions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mlcl.analysis.evaluation import Bools, Floats, Ints
from mlcl.errors import MlclError

_QUERIES = 512  # rows of the similarity matrix in memory at once
_STEPS = 500  # of t-SNE; 1,000 take twice the time, and trustworthiness stays at 0.993 (1,000 of scikit-learn's digits)
_FEW = 30  # rows below which t-SNE has too few neighbours to show more than PCA
_COLUMNS = ("vectors", "owners", "rows", "present")  # of ClassEmbeddings, with an element per entry


@dataclass(frozen=True)
class ClassEmbeddings:
    """R entries; those with an unknown target are left out."""

    vectors: NDArray[np.float32]  # (R, D), unit length
    owners: Ints  # (R,) the class of each
    rows: Ints  # (R,) its image, as a position in the split
    present: Bools  # (R,) whether the image shows the class; all true unless absent entries were collected
    num_classes: int  # K
    shared: bool = False  # whether the head gives all classes the same embedding, as GlobalPool does

    def __len__(self) -> int:
        return len(self.owners)

    def take(self, chosen: NDArray[Any]) -> "ClassEmbeddings":
        """The entries at these places, or where a boolean (R,) mask is true."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _COLUMNS})

    def describe(self) -> str:
        """One line: how many entries there are, and whether their classes can be compared."""
        classes, images = len(np.unique(self.owners[self.present])), len(np.unique(self.rows))
        line = f"{int(self.present.sum()):,} present"
        line += f" and {int((~self.present).sum()):,} absent" if not self.present.all() else ""
        line += f" entries on {images:,} images, {classes} of {self.num_classes} classes present"
        note = "; the head gives every class the same embedding: they tell images apart, not classes"
        return line + (note if self.shared else "")


def entries(
    embeddings: Tensor, targets: ArrayLike | Tensor, rows: Sequence[int] | None = None, absent: bool = False
) -> ClassEmbeddings:
    """The entries of one batch: of the classes that are present, and with ``absent`` of all known ones.

    Args:
        embeddings: (B, K, D), not normalised, such as ``model(pictures).embeddings``.
        targets: (B, K) in {1, 0, -1}.
        rows: B positions of the images; by default 0 to B - 1.
        absent: whether to include classes that are absent.
    """
    truth = torch.as_tensor(targets, device=embeddings.device)
    if embeddings.ndim != 3 or truth.shape != embeddings.shape[:2]:
        got = f"{(*embeddings.shape,)} and {(*truth.shape,)}"
        raise ValueError(f"embeddings and targets must be (B, K, D) and (B, K), got {got}")
    places, owners = ((truth >= 0) if absent else (truth == 1)).nonzero(as_tuple=True)
    numbers = np.arange(len(embeddings)) if rows is None else np.asarray(rows, dtype=np.int64)
    return ClassEmbeddings(
        vectors=F.normalize(embeddings[places, owners].float(), dim=-1).cpu().numpy(),
        owners=owners.cpu().numpy(),
        rows=numbers[places.cpu().numpy()],
        present=(truth[places, owners] == 1).cpu().numpy(),
        num_classes=embeddings.shape[1],
        shared=embeddings.shape[1] > 1 and bool((embeddings == embeddings[:, :1]).all()),
    )


def join(parts: Iterable[ClassEmbeddings]) -> ClassEmbeddings:
    """Concatenate the entries of several batches, at least one."""
    every = list(parts)
    columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in every]) for name in _COLUMNS}
    return replace(every[0], **columns, shared=all(part.shared for part in every))


@dataclass(frozen=True)
class ClassDistances:
    """Mean cosine distances of each class, over all pairs; NaN where there is no pair."""

    count: Ints  # (K,) present entries
    intra: Floats  # (K,) between two images that show the class
    inter: Floats  # (K,) to the present entries of other classes; NaN where all classes share one embedding
    absent: Floats  # (K,) to the class's own embedding on images that do not show it; NaN if none was collected


def distances(embeddings: ClassEmbeddings) -> ClassDistances:
    """Mean distances within each class and to others; exact, and linear in the number of entries.

    With s the sum of n unit vectors, their pairs have the mean cosine (|s|^2 - n) / (n (n - 1)), and the pairs of two
    groups s.t / (n m). Unlike :class:`mlcl.callbacks.spread.EmbeddingSpread`, no row is paired with itself.
    """
    present, others = embeddings.take(embeddings.present), embeddings.take(~embeddings.present)
    (sums, count, norms), (away, left, _) = _sums(present), _sums(others)
    pairs, rest = count * (count - 1), count * (count.sum() - count)
    inside = _mean(np.square(sums).sum(1) - norms, pairs)
    across = _mean((sums * (sums.sum(0) - sums)).sum(1), np.zeros_like(rest) if embeddings.shared else rest)
    return ClassDistances(count, inside, across, _mean((sums * away).sum(1), count * left))


def _sums(embeddings: ClassEmbeddings) -> tuple[Floats, Ints, Floats]:
    """Per class: the sum of its vectors (K, D), their number (K,), and the sum of their squared lengths (K,)."""
    sums = np.zeros((embeddings.num_classes, embeddings.vectors.shape[1]))
    norms = np.zeros(embeddings.num_classes)
    for k in np.unique(embeddings.owners):
        mine = embeddings.vectors[embeddings.owners == k].astype(np.float64)
        sums[k], norms[k] = mine.sum(0), np.square(mine).sum()
    return sums, np.bincount(embeddings.owners, minlength=embeddings.num_classes), norms


def _mean(cosines: Floats, pairs: Ints) -> Floats:
    """One minus the mean cosine, clipped at 0 against rounding; NaN without pairs."""
    return np.where(pairs > 0, (1 - cosines / np.maximum(pairs, 1)).clip(min=0), np.nan)


@dataclass(frozen=True)
class Neighbours:
    """The images nearest to one image by the embedding of one class, nearest first."""

    rows: Ints  # (M,) positions in the split
    distance: Floats  # (M,)
    present: Bools  # (M,) whether they show the class


def neighbours(embeddings: ClassEmbeddings, k: int, row: int, most: int = 5) -> Neighbours:
    """The at most ``most`` images whose embedding of class ``k`` is nearest to that of the image at position ``row``.

    Raises:
        MlclError: if the image has no entry of this class.
    """
    mine = embeddings.take(embeddings.owners == k)
    query = np.flatnonzero(mine.rows == row)
    if not len(query):
        raise MlclError(f"no embedding of class {k} on image {row} was collected: it is absent or unknown there")
    distance = 1 - (mine.vectors @ mine.vectors[query[0]]).astype(np.float64)
    distance[mine.rows == row] = np.inf
    order = np.argsort(distance, kind="stable")[: min(most, int(np.isfinite(distance).sum()))]
    return Neighbours(mine.rows[order], distance[order].clip(min=0), mine.present[order])


def neighbour_precision(embeddings: ClassEmbeddings, most: int = 5) -> Floats:
    """For each class (K,), the share of the nearest neighbours of its images, by its embedding, that show it, too.

    NaN for a class with fewer than two images, or without an absent entry.
    """
    shares = np.full(embeddings.num_classes, np.nan)
    for k in np.unique(embeddings.owners):
        mine = embeddings.take(embeddings.owners == k)
        queries = torch.from_numpy(np.flatnonzero(mine.present))
        if len(queries) < 2 or mine.present.all():
            continue
        vectors, right = torch.from_numpy(mine.vectors), torch.from_numpy(mine.present).double()
        hits = 0.0
        for some in torch.split(queries, _QUERIES):
            cosines = vectors[some] @ vectors.T
            cosines[torch.arange(len(some)), some] = -torch.inf
            hits += float(right[cosines.topk(min(most, len(mine) - 1)).indices].sum())
        shares[k] = hits / (len(queries) * min(most, len(mine) - 1))
    return shares


def project(vectors: NDArray[Any]) -> tuple[Floats, str] | None:
    """Project embeddings (R, D) to points (R, 2) by t-SNE, or PCA for few rows; None where nothing can be projected."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    values = np.asarray(vectors, dtype=np.float64)
    if len(values) < 3 or values.shape[1] < 2 or np.ptp(values, axis=0).max() < 1e-9:
        return None
    if len(values) < _FEW:
        return PCA(2, random_state=0).fit_transform(values), "PCA"
    reduced = PCA(min(50, *values.shape), random_state=0).fit_transform(values)
    perplexity = min(30.0, (len(values) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=0, max_iter=_STEPS).fit_transform(reduced)
    return points.astype(np.float64), f"t-SNE (perplexity {perplexity:.0f}, started from PCA)"
