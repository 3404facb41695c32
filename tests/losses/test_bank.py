"""The memory bank, against a list per class."""

import pytest
import torch

from mlcl.losses import EmbeddingBank, EmbeddingLoss, LabelContrastiveLoss, Projector

K, D = 4, 3


@pytest.mark.parametrize("size", [1, 2, 5])
def test_it_keeps_the_last_confident_true_positives_of_each_class(size: int):
    generator = torch.Generator().manual_seed(size)
    bank, lists = EmbeddingBank(K, size, D, confidence=0.5), [[] for _ in range(K)]
    for batch in (4, 1, 9, 3, 8):  # another number of images every time
        embeddings = torch.randn(batch, 2, K, D, generator=generator)
        targets = torch.randint(-1, 2, (batch, K), generator=generator)
        targets[:, 3] = 0
        probabilities = torch.rand(batch, 2, K, generator=generator)
        bank.update(embeddings, targets, probabilities)
        for i in range(batch):
            for v in range(2):
                for k in range(K):
                    if targets[i, k] == 1 and probabilities[i, v, k] > 0.5:
                        lists[k].append(embeddings[i, v, k])
        rows, labels = (part[bank.slots()[2]] for part in bank.slots()[:2])
        assert bank.rows.shape == (K, size, D)
        for k in range(K):
            stored = {tuple(row.tolist()) for row in rows[labels == k]}
            assert stored == {tuple(row.tolist()) for row in lists[k][-size:]}
        assert bank.written.tolist() == [len(rows) for rows in lists]
    assert bank.written[3] == 0 and bank.written[0] > size


def test_the_order_of_the_ring_survives_a_checkpoint_at_another_batch_size():
    torch.manual_seed(0)
    everything = [torch.randn(n, 1, K, D) for n in (5, 3, 4)]
    update = lambda bank, e: bank.update(e, torch.ones(len(e), K), torch.ones(e.shape[:3]))  # noqa: E731
    whole, first, second = (EmbeddingBank(K, 6, D) for _ in range(3))
    for batch in everything:
        update(whole, batch)
    update(first, everything[0])
    second.load_state_dict(first.state_dict())
    update(second, torch.cat(everything[1:]))
    assert torch.equal(whole.rows, second.rows) and torch.equal(whole.written, second.written)


def test_what_is_stored_has_no_gradient_and_what_uses_it_survives_the_next_update():
    """The bank changes in place between the loss and its backward pass."""
    loss = LabelContrastiveLoss(projection=2, bank=3, confidence=0.0, num_classes=K, dim=D)
    embeddings = torch.randn(4, 1, K, D, requires_grad=True)
    targets = torch.ones(4, K, dtype=torch.long)
    for _ in range(2):
        value = loss(embeddings, targets)
        loss.update(embeddings, targets, torch.ones(4, 1, K))
        value.backward()
    assert not loss.bank.rows.requires_grad and not list(loss.bank.parameters())


def test_an_empty_bank_changes_nothing():
    embeddings, targets = torch.randn(4, 2, K, D), torch.randint(0, 2, (4, K))
    without, empty = LabelContrastiveLoss(), LabelContrastiveLoss(bank=2, num_classes=K, dim=D)
    assert without(embeddings, targets) == empty(embeddings, targets)


def test_a_projector_gives_unit_vectors_of_its_width_and_nothing_without_one():
    rows = torch.randn(5, D) * 9
    torch.testing.assert_close(Projector(D, 7)(rows).norm(dim=-1), torch.ones(5))
    assert Projector(D, 7)(rows).shape == (5, 7) and not list(Projector(D, 0).parameters())
    assert Projector(D, 7).bfloat16()(rows).dtype == torch.float32


@pytest.mark.parametrize("settings", [{"projection": 4}, {"bank": 4}, {"bank": 4, "dim": 3}, {"bank": -1}])
def test_missing_sizes_are_named(settings: dict):
    with pytest.raises(ValueError, match=r"needs|at least|come with dim"):
        LabelContrastiveLoss(**settings)


def test_terms_are_named_after_the_class():
    class MyOwn2Loss(EmbeddingLoss):
        def compute(self, embeddings, targets):
            return embeddings.sum()

    assert list(MyOwn2Loss().terms(torch.ones(1, K, D), torch.ones(1, K))) == ["my_own2"]
