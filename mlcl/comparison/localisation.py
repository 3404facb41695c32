"""Whether a method looks at its objects more than another: the measures of ``--localise``, with error bars."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mlcl.analysis.localisation import Localisation
from mlcl.runs.results import Results

COMPARED = ("gain", "pointing", "specificity")  # energy and chance are in each run's own files


def localised(runs: Sequence[Results]) -> bool:
    """Whether all of them were tested with ``--localise true``."""
    return all(run.localisation is not None for run in runs)


def class_means(run: Results, measure: str) -> Tensor:
    """(K,) float64, NaN for a class without a measured positive."""
    assert run.localisation is not None
    return torch.from_numpy(run.localisation.class_means(measure, len(run.classes)))


def resampled(run: Results, measure: str, weights: Iterable[Tensor]) -> Tensor:
    """Mean of a measure over the positives of every class in every resample: :func:`class_means` of repeated images.

    Args:
        run: an aligned run of N images.
        measure: one of ``COMPARED``.
        weights: (N, b) chunks of whole numbers, from :func:`mlcl.comparison.bootstrap.image_weights`.

    Returns:
        (B, K) float64; NaN where no measured positive of the class was drawn.
    """
    found = run.localisation
    assert isinstance(found, Localisation)
    values = getattr(found, measure)
    kept = np.isfinite(values)
    order = np.argsort(run.index)
    rows = order[np.searchsorted(run.index[order], found.index[kept])]
    shape, places = (len(run.classes), len(run.index)), (found.classes[kept], rows)
    total, number = (csr_array((data, places), shape) for data in (values[kept], np.ones(len(rows))))
    parts = []
    for chunk in weights:
        drawn = chunk.numpy().astype(np.float64)
        counted = number @ drawn
        parts.append(np.where(counted > 0, (total @ drawn) / np.maximum(counted, 1), np.nan).T)
    return torch.from_numpy(np.concatenate(parts))
