"""The rules for unknown labels against loops written from the papers' formulas, and their memory over a training."""

import math

import pytest
import torch
from lightning import Callback, Trainer
from support.fitting import fit
from support.step_parts import ADAM, make
from support.waits import Waits

from mlcl import losses
from mlcl.callbacks import UnknownLabels
from mlcl.data import Demo
from mlcl.errors import MlclError
from mlcl.heads import SemanticAttention
from mlcl.losses.unknown import WEIGHTS, Rule, binary_entropy, largest, loss_with_unknown
from mlcl.module import MultiLabelModule
from mlcl.network import Network

B, K = 5, 6
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0}
QUIET |= {"enable_progress_bar": False, "enable_model_summary": False}
RULES = Rule.__args__
LOSSES = {
    "BCE": losses.BinaryCrossEntropy(),
    "BCE, batchmean": losses.BinaryCrossEntropy(reduction="batchmean"),
    "ASL": losses.AsymmetricLoss(),
    "ZLPR": losses.ZLPRLoss(),
    "two-way": losses.TwoWayLoss(),
}


def step(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, K, generator=generator, dtype=torch.float64).mul(2).to(dtype)
    targets = torch.randint(-1, 2, (B, K), generator=generator, dtype=torch.int8)
    targets[1] = -1  # an image of which nothing is known
    return logits, targets


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def of_entry(name, x, t):
    p = sigmoid(x)
    if t == 1:
        return -math.log(p)
    shifted = max(p - 0.05, 0)
    return -(shifted**4) * math.log(1 - shifted) if name == "ASL" else -math.log(1 - p)


def two_way(lines):
    """One direction: the mean over the lines (images, or classes) that have a present label."""
    found = []
    for line in lines:
        present, absent = ([x for x, t in line if t == code] for code in (1, 0))
        if present:
            low = 4 * math.log(sum(math.exp(-x / 4) for x in present))
            found.append(math.log1p(math.exp(low) * sum(math.exp(x) for x in absent)))
    return sum(found) / max(len(found), 1)


def plain(name, x, targets):
    """A loss whose unknown entries are left out, from its formula."""
    rows = [list(zip(a, b, strict=True)) for a, b in zip(x, targets, strict=True)]
    if name == "two-way":
        return two_way(rows) + two_way(list(zip(*rows, strict=True)))
    if name == "ZLPR":
        signs = [[(x if t == 0 else -x, t) for x, t in row if t >= 0] for row in rows]
        return sum(math.log1p(sum(math.exp(s) for s, t in row if t == c)) for row in signs for c in (0, 1)) / len(rows)
    entries = [of_entry(name, x, t) for row in rows for x, t in row if t >= 0]
    return sum(entries) / (len(rows) if "batchmean" in name else max(len(entries), 1))


def replaced(targets, code):
    return [[code if t == -1 else t for t in row] for row in targets]


def corrected(x, targets, share, code):
    """Unknown entries as absent, those of the largest losses as ``code``."""
    unknown = sorted(((x[i][k], i, k) for i in range(B) for k in range(K) if targets[i][k] == -1), reverse=True)
    result = replaced(targets, 0)
    for _, i, k in unknown[: math.ceil(round(share * B * K, 9))]:
        result[i][k] = code
    return result


def expected(name, rule, x, targets, weight, epoch):
    per_entry, scale = "BCE" in name or name == "ASL", K if "batchmean" in name else 1
    every = [(x[i][k], targets[i][k]) for i in range(B) for k in range(K)]
    known = sum(of_entry(name, x, t) for x, t in every if t >= 0)
    if rule == "ignore":
        return plain(name, x, targets)
    if rule == "negative":
        return plain(name, x, replaced(targets, 0))
    if rule == "weak_negative":
        if per_entry:  # the paper's equation
            return scale * (known + weight * sum(of_entry(name, x, 0) for x, t in every if t == -1)) / (B * K)
        return weight * plain(name, x, replaced(targets, 0)) + (1 - weight) * plain(name, x, targets)
    if rule == "entropy":
        p = [sigmoid(x) for x, t in every if t == -1]
        entropy = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in p)
        return scale * (known - weight * entropy) / (B * K) if per_entry else (
            plain(name, x, targets) - weight * entropy / (B * K)
        )  # fmt: skip
    if rule == "large_loss_permanent":  # what its memory has not corrected
        return plain(name, x, replaced(targets, 0))
    return plain(name, x, corrected(x, targets, weight * epoch, -1 if rule == "large_loss" else 1))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LOSSES)
def test_every_rule_equals_its_formula(name, rule):
    for seed, weight, epoch in ((0, None, 0), (1, 0.3, 1), (2, 0.1, 3), (3, 0.0, 2), (4, 1.0, 1)):
        logits, targets = step(seed)
        default = 1 / (K - 1) if rule == "weak_negative" else WEIGHTS.get(rule, 0)
        own = default if weight is None else weight
        value = loss_with_unknown(LOSSES[name], logits, targets, rule, weight, epoch)
        wanted = expected(name, rule, logits.tolist(), targets.tolist(), own, epoch)
        assert value.item() == pytest.approx(wanted, rel=1e-9 if "BCE" in name else 1e-4), (seed, weight, epoch)


@pytest.mark.parametrize("rule", RULES)
def test_gradient_is_that_of_the_value_and_finite_everywhere(rule):
    for name in ("BCE", "BCE, batchmean", "two-way"):
        logits, targets = step()

        def value(x, name=name, targets=targets):
            return loss_with_unknown(LOSSES[name], x, targets, rule, epoch=9)

        assert torch.autograd.gradcheck(value, logits.requires_grad_())
    for name, loss in LOSSES.items():
        for targets in (step()[1], -torch.ones(B, K, dtype=torch.int8)):
            sharp = (step(dtype=torch.float32)[0].sign() * 1000).requires_grad_()
            value = loss_with_unknown(loss, sharp, targets, rule, epoch=9)
            value.backward()
            assert value.isfinite() and sharp.grad.isfinite().all(), name


def test_what_is_left_out_enters_by_no_rule():
    """As if the image were not there, in losses that are means over entries."""
    logits, targets = step()
    targets[3] = -2
    rest = [0, 1, 2, 4]
    for rule in set(RULES) - {"large_loss", "large_loss_temporary"}:  # whose k counts it
        values = [loss_with_unknown(LOSSES["BCE"], logits[r], targets[r], rule) for r in (range(B), rest)]
        torch.testing.assert_close(values[0], values[1])
    assert not largest(logits, targets, 1.0)[3].any()


def test_the_largest_losses_are_of_unknown_entries_and_ties_go_together():
    logits = torch.tensor([[9.0, 5.0, 5.0], [5.0, 1.0, 8.0]])
    targets = torch.tensor([[1, -1, -1], [-1, -1, 0]])
    taken = {share: largest(logits, targets, share).int().tolist() for share in (0.0, 0.1, 0.5, 0.6, 1.0)}
    assert taken[0.0] == [[0, 0, 0], [0, 0, 0]]
    assert taken[0.1] == taken[0.5] == [[0, 1, 1], [1, 0, 0]]  # k is 1 and 3
    assert taken[0.6] == taken[1.0] == [[0, 1, 1], [1, 1, 0]]  # 4, and more than are unknown
    many = torch.arange(10.0)[None]
    assert largest(many, -torch.ones(1, 10), 3 * 0.1).sum() == 3  # which is 0.30000000000000004


def test_entropy_is_symmetric_and_precise_far_from_zero():
    x = torch.tensor([0.0, 3.0, -3.0, 30.0, 1000.0], dtype=torch.float64)
    h = binary_entropy(x)
    assert h[0].item() == pytest.approx(math.log(2)) and h[1] == h[2] and h[4] == 0
    assert h[3].item() == pytest.approx(31 * math.exp(-30), rel=1e-9)


class Watched(MultiLabelModule):
    """Keeps what the memory saw."""

    def losses(self, batch):
        self.batches = getattr(self, "batches", [])
        unknown = self.unknown.loss

        def seen(module, logits, targets, batch):
            self.batches.append((self.unknown.epoch, batch["index"].tolist(), logits.tolist(), targets.tolist()))
            return unknown(module, logits, targets, batch)

        self.unknown.loss = seen
        terms = super().losses(batch)
        self.unknown.loss = unknown
        return terms


@pytest.fixture
def data(demo_root):
    made = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=32, batch_size=40, views=2)
    made.num_workers, made.known_share = 0, 0.5
    return made


def watched(rule="large_loss_permanent", weight=0.01):
    torch.manual_seed(0)
    network = Network("test_resnet", make(SemanticAttention), 12)
    return Watched(network, optimizer=ADAM, unknown=rule, unknown_weight=weight)


class Keep(Callback):
    """Saves a checkpoint after each epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def memory(path):
    return torch.load(path, weights_only=True)["callbacks"].get("UnknownLabels")


def replay(batches, share):
    """The corrected (image, class) pairs, step by step."""
    memory = set()
    for epoch, index, logits, targets in batches:
        classes = len(targets[0])
        open_ = [(b, k) for b in range(len(index)) for k in range(classes)
                 if targets[b][k] == -1 and (index[b], k) not in memory]  # fmt: skip
        ranked = sorted(((x, b, k) for b, k in open_ for x in [view[k] for view in logits[b]]), reverse=True)
        count = math.ceil(share * len(index) * len(logits[0]) * classes) if epoch else 0
        memory |= {(index[b], k) for _, b, k in ranked[:count] if index[b] >= 0}
    return sorted(memory)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_permanent_corrections_of_a_training(data, tmp_path, capfd):
    """By any view, never of a known label, and stored as a list."""
    made = watched()
    fit(made, data, [Keep(tmp_path)], max_epochs=3, default_root_dir=tmp_path)
    kept = [memory(tmp_path / f"{epoch}.ckpt") for epoch in range(3)]
    wanted = [replay([batch for batch in made.batches if batch[0] <= epoch], 0.01) for epoch in range(3)]
    assert [len(pairs) for pairs in wanted] > [0, 0, 0] and not wanted[0] and len(wanted[2]) > len(wanted[1]) > 0
    for epoch, pairs in enumerate(wanted):
        assert [tuple(entry) for entry in kept[epoch]["entries"].tolist()] == pairs, epoch
    targets = data.splits["train"].targets
    assert all(targets[image, k] == -1 for image, k in wanted[2]) and kept[2]["shape"] == [80, 12]
    assert kept[2]["entries"].dtype == torch.int32
    assert f"model.unknown: {len(wanted[2]):,} unknown labels were corrected" in capfd.readouterr().err

    data.splits["train"] = data.splits["train"].take(range(79))  # as if the run went on with other data
    with pytest.raises(MlclError, match=r"corrected labels .*of 80 training images .*here are 79 and 12"):
        again = watched()
        again.unknown.load_state_dict(kept[1])
        again.unknown.on_train_start(type("Given", (), {"datamodule": data}), again)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_checkpoint_without_a_memory_goes_on_with_an_empty_one(data, tmp_path):
    fit(watched("ignore", None), data, [Keep(tmp_path)], max_epochs=1, default_root_dir=tmp_path)
    assert memory(tmp_path / "0.ckpt") is None
    trainer, made = Trainer(**QUIET, max_epochs=2, callbacks=[Keep(tmp_path)], default_root_dir=tmp_path), watched()
    trainer.fit(made, datamodule=data, ckpt_path=tmp_path / "0.ckpt", weights_only=True)
    pairs = memory(tmp_path / "1.ckpt")["entries"].tolist()
    assert {epoch for epoch, *_ in made.batches} == {1} and [*map(tuple, pairs)] == replay(made.batches, 0.01) != []


def test_an_image_without_a_position_is_corrected_in_its_step_only():
    made = watched(weight=0.1)
    unknown, logits = made.unknown, torch.arange(24.0).view(2, 1, 12)
    unknown.epoch, unknown.corrected = 1, torch.zeros(4, 12, dtype=torch.bool)
    targets = -torch.ones(2, 12, dtype=torch.int8)
    index = torch.tensor([2, -1])
    value = unknown.loss(made, logits, targets, {"index": index})
    wanted = torch.zeros_like(targets)
    wanted[1, -3:] = 1  # k = ceil(0.1 * 24)
    torch.testing.assert_close(value, made.classification_loss(logits[:, 0], wanted))
    assert not unknown.corrected.any()
    unknown.loss(made, logits.flip(0), targets, {"index": index})
    assert unknown.corrected.nonzero().tolist() == [[2, 9], [2, 10], [2, 11]]
    with pytest.raises(MlclError, match="positions of the images"):
        unknown.loss(made, logits, targets, {})


def test_a_splice_takes_over_the_corrections_of_its_tiles():
    """What is known to be present in an image is not absent in the splice that shows it."""
    made = watched()
    made.unknown.corrected = torch.zeros(4, 12, dtype=torch.bool)  # of three images
    made.unknown.corrected[1, 5] = made.unknown.corrected[2, 7] = True
    logits, targets = torch.arange(36.0).view(3, 1, 12), -torch.ones(3, 12, dtype=torch.int8)
    targets[0, 6] = 0
    shown = torch.tensor([[0, 1, 0], [2, 2, 2], [0, 0, 0]])  # a splice of 0 and 1, and two images
    value = made.unknown.loss(made, logits, targets, {"index": torch.tensor([-1, 2, 0]), "shown": shown})
    wanted = torch.zeros_like(targets)
    wanted[0, 5] = wanted[1, 7] = 1
    torch.testing.assert_close(value, made.classification_loss(logits[:, 0], wanted))


@pytest.mark.parametrize("rule", RULES)
def test_what_the_other_tiles_of_a_splice_show_counts_beside_a_picture_that_cannot_be_read(rule):
    made = watched(rule, None)
    made.unknown.epoch = 2
    logits, targets = step()
    targets[3], targets[3, 2] = -1, 1
    batch = {"index": torch.tensor([0, 1, 2, -1, 4]), "readable": torch.tensor([1, 1, 1, 0, 1])}
    present, others = logits.clone(), logits.clone()
    present[3, 2] += 1
    others[3, [0, 1, 3, 4, 5]] += 20
    value, moved, same = (made.unknown.loss(made, x[:, None], targets, batch) for x in (logits, present, others))
    assert moved < value and torch.equal(same, value)


@pytest.mark.parametrize("rule", RULES)
def test_a_picture_that_cannot_be_read_enters_by_no_rule_and_no_rule_waits(rule):
    made = watched(rule, None)
    made.unknown.epoch = 2
    logits, targets = step()
    targets[3] = -1
    batch = {"index": torch.arange(B), "readable": torch.tensor([1, 1, 1, 0, 1])}
    moved = logits.clone()
    moved[3] += 20
    with Waits() as seen:
        values = [made.unknown.loss(made, x[:, None], targets, batch) for x in (logits, moved)]
    assert torch.equal(*values) and seen.found == []


@pytest.mark.parametrize(
    ("rule", "weight", "words"),
    [
        ("ignore", 0.1, "model.unknown_weight is 0.1, but model.unknown ignore has no weight"),
        ("negative", 0.0, "has no weight"),
        ("weak_negative", 1.5, r"must lie in \[0, 1\]"),
        ("large_loss", -0.1, r"must lie in \[0, 1\]"),
        ("entropy", float("nan"), r"must lie in \[0, inf\]"),
    ],
)
def test_wrong_weights_are_refused(rule, weight, words):
    with pytest.raises(MlclError, match=words):
        UnknownLabels(rule, weight)


def test_a_memory_without_a_datamodule_is_refused(tmp_path):
    batch = {"image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "target": torch.ones(2, 12, dtype=torch.int8)}
    trainer = Trainer(**QUIET, max_epochs=1, default_root_dir=tmp_path)
    with pytest.raises(MlclError, match="large_loss_permanent remembers training labels"):
        trainer.fit(watched(), [batch], [batch])
