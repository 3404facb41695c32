"""The spread of embeddings, against a loop over pairs."""

import pytest
import torch

from mlcl.callbacks.spread import EmbeddingSpread


def test_spread_is_about_the_cosines_of_all_pairs():
    torch.manual_seed(0)
    embeddings, targets = torch.randn(9, 3, 4), torch.randint(-1, 2, (9, 3))
    targets[:, 2] = 0  # nothing present
    spread = EmbeddingSpread(3, 4)
    for part in (slice(0, 5), slice(5, 9)):
        spread.update(embeddings[part], targets[part])
    values = spread.compute()
    unit = embeddings / embeddings.norm(dim=-1, keepdim=True)
    for number, entered in enumerate((targets >= 0, targets == 1)):
        expected = []
        for k in range(3):
            rows = unit[entered[:, k], k]
            cosines = torch.tensor([float(a @ b) for a in rows for b in rows])
            expected.append(1 - cosines.mean().sqrt() if len(rows) > 1 else torch.tensor(torch.nan))
        expected = torch.stack(expected)
        torch.testing.assert_close(spread.per_class[number], expected, equal_nan=True)
        torch.testing.assert_close(values[("spread", "spread_present")[number]], expected.nanmean())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_one_constant_embedding_per_class_is_a_collapse(scale):
    spread = EmbeddingSpread(3, 4)
    spread.update(scale * torch.randn(1, 3, 4).expand(6, 3, 4), torch.ones(6, 3))
    assert spread.compute()["spread"] == pytest.approx(0, abs=1e-6)


def test_how_images_are_divided_does_not_change_the_last_digit():
    """Sums of fp32 would depend on the order."""
    torch.manual_seed(0)
    embeddings, targets = torch.randn(200, 3, 16), torch.randint(-1, 2, (200, 3))
    found = []
    for size in (200, 32, 7, 1):
        spread = EmbeddingSpread(3, 16)
        for rows in torch.randperm(200).split(size):
            spread.update(embeddings[rows], targets[rows])
        spread.compute()
        found.append(spread.per_class)
    assert all(torch.equal(other, found[0]) for other in found)


def test_images_that_a_sampler_repeats_do_not_enter():
    torch.manual_seed(0)
    embeddings, targets = torch.randn(5, 3, 4), torch.ones(5, 3)
    once, padded = EmbeddingSpread(3, 4), EmbeddingSpread(3, 4)
    once.update(embeddings, targets)
    padded.left = 5
    for rows in torch.tensor([0, 1, 2, 3, 4, 0, 1]).split(3):
        padded.update(embeddings[rows], targets[rows])
    assert once.compute() == padded.compute()
