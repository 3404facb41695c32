"""Whether a method looks at its objects more than another: the measures of ``--localise``, with error bars."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from mlcl.analysis.localisation import Localisation
from mlcl.comparison.folders import shown
from mlcl.runs.results import Results

COMPARED = ("gain", "pointing", "specificity")  # energy and chance are in each run's own files


def not_compared(runs: Sequence[Results]) -> str:
    """Why aligned runs cannot be compared in this, or nothing: not all were tested so, or they measured other pairs."""
    if without := [shown(run.folder) for run in runs if run.localisation is None]:
        return f"{len(without)} runs, such as {without[0]}, were tested without --localise true"
    first = _measured(runs[0])
    for run in runs[1:]:
        if not np.array_equal(first, own := _measured(run)):
            counts = f"{shown(runs[0].folder)} measured {len(first):,} positives, {shown(run.folder)} {len(own):,}"
            return f"{counts}, not the same ones; test both again on the same pictures and annotations"
    return ""


def other_map(run: Results, other: Results) -> bool:
    """Whether two comparable runs have attention maps of other sizes: then chance differs a little."""
    if run.localisation is None or other.localisation is None:
        return False
    chances = (one.class_means("chance", len(run.classes)) for one in (run.localisation, other.localisation))
    return not np.allclose(next(chances), next(chances), equal_nan=True)


def _measured(run: Results) -> NDArray[np.int64]:
    """Row and class of the measured positives, as one ascending number each."""
    found = run.localisation
    assert found is not None
    return np.sort(run.rows_of(found.index) * len(run.classes) + found.classes)


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
    rows = run.rows_of(found.index[kept])
    shape, places = (len(run.classes), len(run.index)), (found.classes[kept], rows)
    total, number = (csr_array((data, places), shape) for data in (values[kept], np.ones(len(rows))))
    parts = []
    for chunk in weights:
        drawn = chunk.numpy().astype(np.float64)
        counted = number @ drawn
        parts.append(np.where(counted > 0, (total @ drawn) / np.maximum(counted, 1), np.nan).T)
    return torch.from_numpy(np.concatenate(parts))
