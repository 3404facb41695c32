"""The metrics of thousands of classes: by blocks, within a bounded memory, nothing left from epoch to epoch."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from sklearn.metrics import average_precision_score
from torch.utils.data import DataLoader

from mlcl.callbacks.results import Results
from mlcl.callbacks.spread import EmbeddingSpread
from mlcl.heads import SemanticAttention
from mlcl.metrics import MultiLabelMetrics, f1_family, top_k
from mlcl.module import MultiLabelModule
from mlcl.network import Network


def _many(n=60, k=7, **settings):
    """A metric that has seen n images in no order, some twice, with ties and unknown entries."""
    generator = torch.Generator().manual_seed(n)
    logits, targets = torch.randn(n, k, generator=generator), torch.randint(-1, 2, (n, k), generator=generator)
    logits, metrics = logits.mul(2).round().div(2), MultiLabelMetrics(k, **settings)
    rows = torch.cat([torch.randperm(n, generator=generator), torch.arange(5)])
    for part in rows.split(8):
        metrics.update(logits[part], targets[part], part)
    return metrics


@pytest.mark.parametrize("entries", [1, 50])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"interpolation": "envelope", "cf1": "mean", "temperature": 1.7},
        {"interpolation": "11point", "threshold": [0.1, 0.3, 0.5, 0.5, 0.6, 0.8, 1.0]},
    ],
)
def test_blocks_of_any_size_give_the_same(entries, settings, monkeypatch):
    whole, parts = _many(**settings), _many(**settings)
    expected = whole.compute()
    monkeypatch.setattr("mlcl.analysis.measures.BLOCK", entries)
    assert parts.compute() == expected
    for name in ("logits", "targets", "index", "class_ap", "positives", "unknown"):
        assert torch.equal(getattr(parts.evaluation, name), getattr(whole.evaluation, name)), name
    scores, targets = whole.evaluation.logits, whole.evaluation.targets
    assert torch.equal(whole.evaluation.positives, (targets == 1).sum(0))
    assert torch.equal(whole.evaluation.unknown, (targets == -1).sum(0))
    chosen = top_k(scores, targets, 3)
    for row, labels, found in zip(scores.tolist(), targets.tolist(), chosen, strict=True):
        ranked = sorted((k for k in range(7) if labels[k] >= 0), key=lambda k: (-row[k], k))
        assert sorted(ranked[:3]) == found.nonzero()[:, 0].tolist()
    predicted = (scores.double() / whole.temperature).sigmoid() >= whole.thresholds
    assert f1_family(predicted, targets, whole.cf1) == {name: expected[name] for name in f1_family(predicted, targets)}


def test_a_random_part_of_many_classes_equals_scikit_learn():
    metrics = _many(3000, 400)
    metrics.compute()
    evaluation = metrics.evaluation
    for k in np.random.default_rng(0).choice(400, 10, replace=False):
        known = evaluation.targets[:, k] >= 0
        expected = average_precision_score(evaluation.targets[known, k], evaluation.logits[known, k])
        assert evaluation.class_ap[k].item() == pytest.approx(expected, abs=1e-12)


def test_many_small_updates_equal_one():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(150, 3, generator=generator), torch.randint(-1, 2, (150, 3), generator=generator)
    one, many = MultiLabelMetrics(3), MultiLabelMetrics(3)
    one.update(logits, targets)
    for row in zip(logits.split(1), targets.split(1), strict=True):
        many.update(*row)
    assert one.compute() == many.compute()
    assert torch.equal(one.evaluation.logits, many.evaluation.logits)


def test_updates_after_compute_count_as_if_all_came_at_once():
    once, twice = _many(60), _many(60)
    twice.compute()
    for metrics in (once, twice):
        metrics.update(torch.zeros(0, 7), torch.zeros(0, 7), torch.zeros(0))
        metrics.update(torch.ones(4, 7), torch.ones(4, 7), torch.tensor([59, 61, 60, -1]))
    assert once.compute() == twice.compute() == twice.compute()
    assert twice.evaluation.index.tolist() == [-1, *range(62)]
    assert torch.equal(once.evaluation.logits, twice.evaluation.logits)


def _status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure")
def test_compute_takes_few_copies_of_what_it_has_collected(monkeypatch):
    """125,000 images x 9,600 classes are 6 GB, for which 24 GB must do: three times as much beside them."""
    monkeypatch.setattr("mlcl.analysis.measures.BLOCK", 2**18)
    images, classes = 8_000, 1_000
    metrics = MultiLabelMetrics(classes)
    for rows in torch.arange(images - 1, -1, -1).split(500):
        metrics.update(torch.randn(len(rows), classes), torch.randint(-1, 2, (len(rows), classes)), rows)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest level starts again from here
    before = _status("VmRSS")
    metrics.compute()
    assert _status("VmHWM") - before < 3 * images * classes * 5, "times logits and targets"


class _Watch(Callback):
    """Live tensors before each epoch, and the last evaluation while the next one runs."""

    def __init__(self):
        self.live, self.last, self.left = [], None, []

    def on_train_epoch_start(self, trainer, pl_module):
        gc.collect()
        # Not the fake ones that a compiler may have left behind in another test: they have no size.
        tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
        real = [tensor for tensor in tensors if not any(isinstance(side, torch.SymInt) for side in tensor.shape)]
        self.live.append((len(real), sum(tensor.nbytes for tensor in real)))

    def on_validation_batch_start(self, trainer, pl_module, *args):
        self.left.append(self.last is not None and self.last() is not None)

    def on_validation_end(self, trainer, pl_module):
        self.last = weakref.ref(pl_module.val_metrics.evaluation)


@pytest.mark.slow
def test_evaluations_do_not_pile_up_over_epochs(tmp_path):
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    data = [{"image": image, "target": torch.tensor([1, 0, -1]), "index": i} for i, image in enumerate(images)]
    watch, loader = _Watch(), DataLoader(data, batch_size=4)
    trainer = Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[watch],
                      num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
                      default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(MultiLabelModule(Network("test_resnet", SemanticAttention(8), 3)), loader, loader)
    assert len(watch.left) == 12 and not any(watch.left)
    assert len(set(watch.live[2:])) == 1, watch.live


def test_thousands_of_classes_leave_a_readable_terminal(tmp_path, capsys):
    metrics = _many(40, 3000)
    metrics.targets = [torch.where(torch.arange(3000) < 50, -1, targets).to(torch.int8) for targets in metrics.targets]
    metrics.compute()
    module, trainer = torch.nn.Module(), Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    module.test_metrics, module.spread = metrics, EmbeddingSpread(3000, 2)
    module.network = Network("test_resnet", SemanticAttention(2), 3000)
    Results(tmp_path).on_test_end(trainer, module)
    text = capsys.readouterr().out
    assert "the best and the worst of 3,000 classes; all are in per_class.csv" in text
    assert " and 30 more" in text and len(text.splitlines()) < 250
    assert len((tmp_path / "per_class.csv").read_text().splitlines()) == 3001
