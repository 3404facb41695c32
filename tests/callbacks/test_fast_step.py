"""No step waits for the device, and shapes stay the same."""

import contextlib
import functools
import inspect

import pytest
import torch
from support.fitting import Around, Watch, demo_module, fit
from support.step_parts import ADAM, COMPARING, EMBEDDINGS, batch, module
from support.waits import Waits

from mlcl.callbacks import EMA, EpochLines, fast_step
from mlcl.data import Demo
from mlcl.data.sampler import EpochSampler
from mlcl.heads import HEADS
from mlcl.losses import CLASSIFICATION_LOSSES
from mlcl.module import MultiLabelModule


@pytest.fixture(autouse=True)
def _no_autocast_on_meta(monkeypatch, request):
    """Which that device does not know; the step does not use it here."""
    if "meta" in request.node.name:
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)


def waits(made: MultiLabelModule, device: str = "cpu", capacity: int | None = 64) -> list[str]:
    """What a whole step waits for: losses with the renewal of states, backward, optimizer."""
    made.to(device).train()
    if made.embedding_loss is not None:
        made.embedding_loss.capacity = capacity
    optimizer = ADAM(made.parameters()) if device == "cpu" else torch.optim.SGD(made.parameters(), lr=0.1)
    data = batch(device)
    with Waits() as seen:
        for _ in range(2):
            optimizer.zero_grad()
            made.losses(data)["loss"].backward()
            optimizer.step()
    return seen.found


a_third = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * bool(n % 3)) for n, name in enumerate(EMBEDDINGS)]
)


@a_third
def test_no_embedding_loss_waits_on_meta(name):
    """A device without values, where what would wait cannot be computed."""
    assert waits(module(embedding=name), "meta") == []


@a_third
def test_without_a_capacity_the_number_of_rows_is_asked_for_once(name):
    expected = ["_local_scalar_dense.default"] * 2 if name in COMPARING else []  # once in a step
    assert waits(module(embedding=name), capacity=None) == expected


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_no_classification_loss_waits(name):
    assert waits(module(classification=name)) == []


@pytest.mark.parametrize("name", HEADS)
def test_no_head_waits(name):
    assert waits(module(head=name, embedding="label, all")) == []


def test_what_would_wait_is_seen():
    x, mask = torch.rand(3), torch.tensor([True, False, True])
    for read in (
        lambda: x[mask],
        lambda: x.__setitem__(mask, torch.zeros(2)),
        lambda: x.sum().item(),
        lambda: mask.nonzero(),
        lambda: torch.equal(x, x),
        lambda: x.masked_select(mask),
        lambda: bool(mask.any()),
        lambda: mask.long().unique(),
        lambda: x.repeat_interleave(mask.long()),
        lambda: x.to("meta"),
    ):
        with Waits() as seen:
            read()
        assert seen.found, inspect.getsource(read)
    with Waits() as seen:
        x.masked_fill(mask, 0), x[torch.tensor([0, 1])], x.to(torch.float64), torch.where(mask, x, 0)
    assert not seen.found


class Strict(Around):
    """Lets CUDA itself refuse to wait; the first batch makes states and chooses kernels."""

    def begin(self, module, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if batch_idx else "default")

    def end(self):
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def data(demo_root):
    made = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=48, batch_size=12, views=2)
    made.num_workers = 0
    return made


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_no_step_of_a_training_waits(data, monkeypatch, tmp_path):
    """Logging, EMA and the line per epoch included; the capacity is that of the largest step of its epoch."""
    monkeypatch.setattr(fast_step, "_ROUNDED_TO", 1)
    data.batch_size = 20
    made, seen = demo_module("label, all"), Watch()
    fit(made, data, [EMA(0.9), EpochLines(), seen], max_epochs=2, default_root_dir=tmp_path)
    assert len(seen.present) == 8 and seen.found == []
    assert seen.capacities == [max(seen.present[:4])] * 4 + [max(seen.present[4:])] * 4
    assert made.embedding_loss.capacity is None and not made.equal_batches  # nothing is left behind


@pytest.mark.parametrize("size", [12, 99])
def test_the_capacity_is_that_of_the_largest_batch(data, size, monkeypatch):
    monkeypatch.setattr(fast_step, "_ROUNDED_TO", 1)
    data.batch_size, module = size, demo_module("LabelContrastiveLoss")
    data.setup()
    loader = data.train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        assert fast_step.fix_shapes(module.embedding_loss, given(loader, data, module))
        present = [int((batch["target"] == 1).sum()) * data.views for batch in loader]
        assert module.embedding_loss.capacity == max(present)


class Mixing(Demo):
    """As CutMix and pseudo-labels do: a batch has more present entries than its images."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {**batch, "target": torch.ones_like(batch["target"])} if self.trainer.training else batch


def given(loader, data, module):
    return type("Given", (), {"train_dataloader": loader, "datamodule": data, "lightning_module": module})


def test_a_loader_of_another_kind_is_asked_every_time(data):
    module = demo_module("LabelContrastiveLoss")
    loss = module.embedding_loss
    data.setup()
    loader = data.train_dataloader()
    other = type("Wrapped", (type(loader.dataset),), {})(loader.dataset.samples, loader.dataset.augmentation)
    kinds = {
        "ours": loader,
        "no sampler of ours": torch.utils.data.DataLoader(loader.dataset, batch_size=4),
        "no dataset of ours": torch.utils.data.DataLoader(other, batch_size=4, sampler=EpochSampler(other, 0, True)),
        "several": [loader, loader],
    }
    for kind, chosen in kinds.items():
        assert fast_step.fix_shapes(loss, given(chosen, data, module)) == (kind == "ours"), kind
        assert (loss.capacity is not None) == (kind == "ours"), kind
    assert not fast_step.fix_shapes(loss, given(loader, None, module)) and loss.capacity is None
    prototypes = demo_module("PrototypeContrastiveLoss").embedding_loss
    assert fast_step.fix_shapes(prototypes, given(loader, data, module))
    assert prototypes.capacity is None  # it has no use for one


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_labels_that_change_on_the_way_are_not_too_many(demo_root, tmp_path):
    data = Mixing(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=48, batch_size=12)
    data.num_workers = 0
    fit(demo_module("LabelContrastiveLoss"), data, [], default_root_dir=tmp_path, max_epochs=1)


class Shown(MultiLabelModule):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("shown", loss["loss"], prog_bar=True)
        return loss


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_trap_lightning_waits_in_every_step_for_what_is_logged_to_the_bar(data, tmp_path):
    """Lightning 2.6.6, and the test above can fail; the bar reads the loss by itself."""
    made, seen = demo_module("LabelContrastiveLoss"), Watch()
    made.__class__ = Shown
    fit(made, data, [seen], default_root_dir=tmp_path, max_epochs=1)
    assert seen.found == ["_local_scalar_dense.default"] * len(seen.present)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_cuda_itself_sees_no_wait(data, name, precision, tmp_path):
    made = demo_module(name)
    made.optimizer_factory = functools.partial(torch.optim.AdamW, lr=1e-3)
    try:
        fit(made, data, [EMA(0.9), EpochLines(), Strict()], accelerator="cuda", devices=1, precision=precision,
            default_root_dir=tmp_path)  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(group["fused"] for group in made.optimizers().optimizer.param_groups)
