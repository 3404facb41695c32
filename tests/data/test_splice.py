"""Splices: pixels and labels in plain loops, how often, and the same in any process and after a resume."""

import hashlib
from collections import Counter

import lightning
import pytest
import torch
from support.fitting import demo_module
from torchvision.transforms.v2 import functional as F

from mlcl.data import Demo
from mlcl.data.splice import draw, splice
from mlcl.errors import MlclError


def batch_of(count, views, side, classes=5):
    generator = torch.Generator().manual_seed(side)
    shape = (count, *([views] if views > 1 else []), side, side, 3)  # channels last in memory, as they are collated
    return {
        "image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).movedim(-1, -3),
        "target": torch.randint(-1, 2, (count, classes), dtype=torch.int8, generator=generator),
        "index": torch.arange(100, 100 + count),
    }


def edges(side, parts):
    return [side * n // parts for n in range(parts + 1)]


@pytest.mark.parametrize(("count", "views", "side"), [(8, 1, 50), (9, 3, 31), (6, 2, 24), (3, 1, 7), (6, 1, 6)])
def test_pixels_and_labels_in_plain_loops(count, views, side):
    batch = batch_of(count, views, side)
    before = {name: tensor.clone() for name, tensor in batch.items()}
    plans = draw(batch["index"], 0.8, seed=1, epoch=2)
    assert 0 < len(plans) < count
    made = splice(batch, plans)
    assert all(torch.equal(batch[name], before[name]) for name in batch), "the batch itself is not changed"
    by_row = {plan.row: plan for plan in plans}
    for row in range(count):
        if row not in by_row:
            assert all(torch.equal(made[name][row], batch[name][row]) for name in batch)
            continue
        (rows, columns), tiles = by_row[row].grid, by_row[row].tiles
        assert made["index"][row] == -1 and row in tiles and len({*tiles}) == len(tiles) == rows * columns
        for view in range(views):
            result = made["image"][row][view] if views > 1 else made["image"][row]
            seen = torch.zeros(side, side, dtype=torch.int64)
            for number, tile in enumerate(tiles):
                top, bottom = edges(side, rows)[number // columns :][:2]
                left, right = edges(side, columns)[number % columns :][:2]
                source = batch["image"][tile][view] if views > 1 else batch["image"][tile]
                reduced = F.resize(source.contiguous(), [bottom - top, right - left], antialias=True)
                difference = result[:, top:bottom, left:right].int() - reduced.int()
                assert difference.abs().max() <= 1, "rounding, by the order of the channels in memory"
                seen[top:bottom, left:right] += 1
            assert (seen == 1).all(), "every pixel belongs to one tile"
        for k in range(5):
            states = [int(batch["target"][tile, k]) for tile in tiles]
            expected = 1 if 1 in states else -1 if -1 in states else 0
            assert made["target"][row, k] == expected
    assert made["image"].dtype == torch.uint8 and made["image"].stride() == batch["image"].stride()


def test_a_class_of_no_tile_stays_absent_and_what_is_unknown_stays_so():
    batch = batch_of(12, 1, 12)
    batch["target"][:, 0], batch["target"][:, 1] = 0, -1
    batch["target"][:, 2] = torch.arange(12) % 2 - 1  # unknown or absent
    made = splice(batch, draw(batch["index"], 0.99, 0, 0))
    assert (made["target"][:, 0] == 0).all() and (made["target"][:, 1] == -1).all() and (made["target"][:, 2] < 1).all()
    assert (made["index"] == -1).sum() > 8


def test_share_grids_and_partners_are_as_often_as_is_said():
    index, plans = torch.arange(20), [draw(torch.arange(20), 0.25, 3, epoch) for epoch in range(600)]
    every = [plan for step in plans for plan in step]
    assert len(every) / (600 * 20) == pytest.approx(0.25, abs=0.02)
    grids = Counter(plan.grid for plan in every)
    weights = {(1, 2): 0.15, (2, 1): 0.15, (2, 2): 0.4, (2, 3): 0.15, (3, 2): 0.15}
    assert {grid: n / len(every) for grid, n in grids.items()} == pytest.approx(weights, abs=0.03)
    partners = Counter(tile for plan in every for tile in plan.tiles if tile != plan.row)
    assert max(partners.values()) < 1.2 * min(partners.values()) and len(partners) == 20
    own_place = Counter(plan.tiles.index(plan.row) for plan in every if plan.grid == (2, 2))
    assert max(own_place.values()) < 1.3 * min(own_place.values()) and len(own_place) == 4
    # By (seed, epoch, index): the place in the step decides neither whether nor which grid.
    turned = draw(index.flip(0), 0.25, 3, 0)
    assert {(19 - plan.row, plan.grid) for plan in turned} == {(plan.row, plan.grid) for plan in plans[0]}
    assert draw(index, 0.25, 4, 0) != plans[0] != plans[1] and draw(index, 0.25, 3, 1) == plans[1]


def test_small_steps_have_small_grids_and_one_image_none():
    for count, most in ((1, 0), (2, 2), (3, 2), (5, 4), (6, 6)):
        found = [plan for epoch in range(60) for plan in draw(torch.arange(count), 0.9, 0, epoch)]
        assert max((len(plan.tiles) for plan in found), default=0) == most
    assert not draw(torch.arange(20), 0.0, 0, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"splicemix": 1.0}, r"data.splicemix is 1.0, it must lie in \[0, 1\)"),
        ({"splicemix": -0.1}, r"data.splicemix is -0.1, it must lie in \[0, 1\)"),
        ({"splicemix": float("nan")}, r"data.splicemix is nan"),
        ({"splicemix": 0.25, "cache": "features"}, "not with data.cache features"),
        ({"splicemix": 0.25, "image_size": 5}, "image_size is 5, it must be at least 6"),
        ({"frequency_borders": (100, 20)}, r"frequency_borders is \[100, 20\], it must be two whole numbers"),
        ({"frequency_borders": (-1, 20)}, r"frequency_borders is \[-1, 20\]"),
        ({"frequency_borders": (20, 20)}, r"frequency_borders is \[20, 20\]"),
        ({"sampler": "balanced"}, "data.sampler is 'balanced'; known: random, class_aware"),
    ],
)
def test_what_is_refused(settings, words):
    with pytest.raises(MlclError, match=words):
        Demo(**settings)


class Batches(lightning.Callback):
    """A hash of every training step, and its splices; validation has none."""

    def __init__(self):
        self.steps, self.splices = {}, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        digest = hashlib.blake2b(
            b"".join(batch[n].contiguous().numpy().tobytes() for n in ("image", "target", "index"))
        )
        self.steps[trainer.current_epoch, batch_idx] = digest.hexdigest()
        self.splices.append(int((batch["index"] == -1).sum()))
        labels = torch.from_numpy(trainer.datamodule.splits["train"].targets)[batch["shown"]]
        assert torch.equal(labels.amax(1), batch["target"]), "the positions of all tiles; all labels are known here"
        assert all(
            (row == place).all() for row, place in zip(batch["shown"], batch["index"], strict=True) if place >= 0
        )
        assert module.equal_batches and module.embedding_loss.capacity is None, "unions have more rows than foretold"

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        assert (batch["index"] >= 0).all()


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*DataLoader will create")
@pytest.mark.filterwarnings("ignore:.*use of fork")
@pytest.mark.slow
def test_trainings_see_the_same_splices_with_any_workers_on_the_device_and_after_a_resume(demo_root, tmp_path):
    """All of it beside class-aware sampling and a loss that compares rows."""

    def train(epochs, checkpoint=None, **settings):
        settings = {"num_workers": 0, "augment": "flip", "views": 2, "sampler": "class_aware", **settings}
        data = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=40, batch_size=16,
                    splicemix=0.5, **settings)  # fmt: skip
        seen, made = Batches(), demo_module("LabelContrastiveLoss")
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, num_sanity_val_steps=0, callbacks=[seen],
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(made, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return seen, trainer

    seen, trainer = train(1)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    resumed, _ = train(2, tmp_path / "first.ckpt")
    whole, _ = train(2, num_workers=2, augment_on="device")
    assert len(whole.steps) == 10 and len({*whole.steps.values()}) == 10
    assert seen.steps | resumed.steps == whole.steps and min(map(len, (seen.steps, resumed.steps))) == 5
    assert 0.3 < sum(whole.splices) / 160 < 0.7
