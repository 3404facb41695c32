"""Principal components and t-SNE against loops and scikit-learn."""

import math

import numpy as np
import pytest
import scipy
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from mlcl.analysis import embeddings
from mlcl.analysis.projection import _affinities, principal, t_sne

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(40, 7), (12, 30)])
def test_principal_components(shape):
    """Up to their signs, which are ours: the largest entry is positive."""
    vectors = RNG.normal(size=shape) * np.arange(1, shape[1] + 1)
    found, expected = principal(vectors, 5), PCA(5).fit_transform(vectors)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    assert (found[np.abs(found).argmax(0), np.arange(5)] > 0).all()


def test_affinities_have_the_perplexity_and_add_up_to_one():
    """Against the definition, with each vector's width from a search for the root."""
    vectors, perplexity = RNG.normal(size=(25, 4)), 6.0

    def shares_of(narrow, i):
        row = np.exp(-((vectors - vectors[i]) ** 2).sum(1) * narrow)
        row[i] = 0
        return row / row.sum()

    def excess(narrow, i):
        return scipy.special.entr(shares_of(narrow, i)).sum() - math.log(perplexity)

    shares = np.stack([shares_of(scipy.optimize.brentq(excess, 0.01, 50, args=(i,)), i) for i in range(25)])
    found = _affinities(torch.from_numpy(vectors), perplexity).numpy()
    np.testing.assert_allclose(found, (shares + shares.T) / 50, atol=2e-4)
    assert found.sum() == pytest.approx(1, abs=1e-5) and (found == found.T).all()


def test_equal_vectors_and_distant_groups():
    """No division by zero, and groups stay apart with their neighbours together."""
    groups = [RNG.normal(size=(30, 10)) + 12 * RNG.normal(size=10) for _ in range(4)]
    vectors = principal(np.concatenate([*groups, np.repeat(groups[0][:1], 15, 0)]), 5)
    points = t_sne(vectors, 10.0)
    assert points.shape == (135, 2) and np.isfinite(points).all()
    assert trustworthiness(vectors[:120], points[:120], n_neighbors=8) > 0.9
    owners = np.repeat(np.arange(4), 30)
    distances = np.linalg.norm(points[:120, None] - points[None, :120], axis=-1)
    nearest = distances.argsort(1)[:, 1:6]
    assert (owners[nearest] == owners[:, None]).mean() > 0.99


def test_many_vectors_go_to_scikit_learn(monkeypatch):
    monkeypatch.setattr(embeddings, "_EXACT", 40)
    monkeypatch.setattr(embeddings, "t_sne", None)
    points, method = embeddings.project(RNG.normal(size=(50, 6)))
    assert points.shape == (50, 2) and method.startswith("t-SNE")
