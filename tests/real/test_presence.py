"""The loss of tests/real/presence.py, against loops and a constant."""

import math

import pytest
import torch
from real.presence import PresenceContrastiveLoss
from support.content import content


def slow(embeddings, targets, t, most):
    """Class by class, query by query, straight from the formula."""
    values = []
    for k in range(targets.shape[1]):
        z = {(i, v): one[k] / one[k].norm() for i, views in enumerate(embeddings) for v, one in enumerate(views)}
        present = [row for row in z if targets[row[0], k] == 1]
        mean = sum((z[row] for row in present), torch.zeros_like(embeddings[0, 0, 0]))
        absent = sorted((row for row in z if targets[row[0], k] == 0), key=lambda row: -float(z[row] @ mean))[:most]
        queries = []
        for i in present if absent else ():
            others = [p for p in present if p != i]
            pairs = [sum(math.exp(float(z[i] @ (z[a] - z[p])) / t) for a in absent) for p in others]
            queries += [sum(math.log(1 + pair) for pair in pairs) / len(pairs)] if pairs else []
        values += [sum(queries) / len(queries)] if queries else []
    return sum(values) / max(len(values), 1)


@pytest.mark.parametrize(("views", "most"), [(1, 16), (2, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_it_equals_the_loops(seed, views, most):
    torch.manual_seed(seed)
    embeddings, targets = torch.randn(6, views, 4, 3, dtype=torch.float64), torch.randint(-1, 2, (6, 4))
    found = PresenceContrastiveLoss(temperature=0.3, absents=most)(embeddings, targets)
    assert found.item() == pytest.approx(slow(embeddings, targets, 0.3, most), abs=1e-12)


def test_a_constant_does_not_meet_it():
    found = content(PresenceContrastiveLoss())
    assert found.constant == pytest.approx(2.271, abs=0.001) and found.least < 0.15
