"""A training that computes with nan or infinity stops with one line, and nothing of it is saved."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from support.fitting import Watch, demo_module, fit

from mlcl.callbacks import EMA, Finite, finite
from mlcl.data import Demo
from mlcl.errors import MlclError

# Breaks from the step with this number on, counted over a training: the demo has 5 steps per epoch.
HEAD = """
from mlcl.heads import GlobalPool
class Breaks(GlobalPool):
    def __init__(self, at: int, backward: bool = False):
        super().__init__()
        self.at, self.backward, self.calls = at, backward, 0
    def forward(self, features):
        self.calls += self.training
        if self.training and self.calls > self.at:
            if self.backward:
                features.register_hook(lambda gradient: gradient * float("inf"))
            else:
                features = features * float("nan")
        return super().forward(features)
"""
LOSS = """
from mlcl.losses import EmbeddingLoss
class Log(EmbeddingLoss):
    def __init__(self, at: int):
        super().__init__()
        self.at, self.calls = at, 0
    def compute(self, embeddings, targets):
        self.calls += 1
        wild = embeddings.abs().sum() * (0 if self.calls > self.at else 1)
        return {"mild": embeddings.square().mean(), "wild": wild.log().abs() * 0.01}
"""


def breaking(at: int, backward: bool = False) -> list[str]:
    """Flags for the head above."""
    Path("own_head.py").write_text(HEAD)
    own = ["--model.network.head", "own_head.Breaks", "--model.network.head.at", str(at)]
    return [*own, "--model.network.head.backward", str(backward).lower(), "--test_after_fit", "false"]


@pytest.mark.parametrize(("every", "splices"), [pytest.param("1", "0", marks=pytest.mark.slow), ("50", "0.5")])
def test_a_broken_activation_names_step_term_and_files_and_keeps_the_checkpoint(mlcl, demo, demo_root, every, splices):
    flags = ["--trainer.log_every_n_steps", every, "--data.splicemix", splices]
    outcome = mlcl("fit", *demo, *breaking(6), *flags)
    message = outcome.err.strip().splitlines()[-1]
    assert outcome.status == 1 and message.startswith("mlcl: step 6 (epoch 1): classification is nan"), outcome.err
    named = message.partition("batch: ")[2].partition(";")[0].split(", ")
    if splices != "0":  # they are no image of the dataset
        count, _, what = named.pop().partition(" ")
        assert what == "splices of images of the step" and 1 < int(count) < 15
        named += named[:1] * int(count)
    assert len(named) == 16 and all((demo_root / name).is_file() for name in named), message
    last = Path("runs/demo/version_0/checkpoints/last.ckpt")
    kept = torch.load(last, weights_only=True)
    assert kept["epoch"] == 0 and all(t.isfinite().all() for t in kept["state_dict"].values())
    assert f"--ckpt_path {last}" in message


def test_a_broken_gradient(mlcl, demo):
    outcome = mlcl("fit", *demo, *breaking(2, backward=True))
    message = outcome.err.strip().splitlines()[-1]
    assert outcome.status == 1 and message.startswith("mlcl: step 2 (epoch 0): the gradient is "), message


def test_a_broken_term_is_named_as_it_is_logged(mlcl, demo):
    Path("own_loss.py").write_text(LOSS)
    outcome = mlcl("fit", *demo, "--model.embedding_loss", "own_loss.Log", "--model.embedding_loss.at", "2")
    message = outcome.err.strip().splitlines()[-1]
    assert outcome.status == 1 and message.startswith("mlcl: step 2 (epoch 0): wild is inf"), message
    assert not Path("runs/demo/version_0/checkpoints").exists() and "--ckpt_path" not in message


STATISTICS = """
import lightning
class Spoil(lightning.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1:
            module.network.backbone.bn1.running_var.fill_(float("inf"))
class Unlucky(lightning.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1:
            module.network.backbone.bn1.running_var.fill_(-1.0)
"""


@pytest.mark.parametrize(
    ("how", "says"),
    [("Spoil", "no checkpoint is written"), pytest.param("Unlucky", "validation images", marks=pytest.mark.slow)],
)
def test_nothing_is_saved_of_broken_statistics(mlcl, demo, how, says):
    """No loss shows them in training: only a validation, or nothing at all."""
    Path("own_callback.py").write_text(STATISTICS)
    flags = ["--ema_decay", "null", "--trainer.callbacks+", f"own_callback.{how}", "--test_after_fit", "false"]
    outcome = mlcl("fit", *demo, *flags)
    assert outcome.status == 1 and says in outcome.err.strip().splitlines()[-1], outcome.err
    for name in ("best", "last"):
        kept = torch.load(f"runs/demo/version_0/checkpoints/{name}.ckpt", weights_only=True)
        assert kept["epoch"] == 0 and kept["state_dict"]["network.backbone.bn1.running_var"].isfinite().all()


def spoilt(run: Path, name: str, value: float) -> list[str]:
    """A checkpoint as the run's best, with one value of one tensor changed; the flag that names it."""
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"][f"network.backbone.{name}"].view(-1)[0] = value
    torch.save(content, "spoilt.ckpt")
    return ["--ckpt_path", "spoilt.ckpt"]


def test_weights_that_are_not_finite_are_refused_where_they_are_read(mlcl, trained):
    flags = spoilt(trained, "bn1.weight", float("nan"))
    for verb in (["test"], ["predict", "--images", trained, "--output", "p.csv"]):
        outcome = mlcl(*verb, *flags)
        assert outcome.status == 1 and outcome.err.count("\n") == 1, outcome.err
        assert outcome.err.startswith("mlcl: spoilt.ckpt: network.backbone.bn1.weight is not finite"), outcome.err


def test_scores_that_are_not_finite_have_no_metrics(mlcl, trained, demo_root):
    """All weights are numbers, but a variance below 0 has no root."""
    flags = spoilt(trained, "bn1.running_var", -1.0)
    for verb, images in (("test", "25 test"), ("validate", "20 validation")):
        outcome = mlcl(verb, *flags)
        last = outcome.err.strip().splitlines()[-1]
        assert outcome.status == 1 and last.startswith(f"mlcl: the logits of {images} images are not finite"), last
        assert last.endswith("give an earlier checkpoint") and not list(Path("runs").glob("**/metrics.json"))
    outcome = mlcl("predict", *flags, "--images", demo_root / "val2014", "--output", "p.csv")
    last = outcome.err.strip().splitlines()[-1]
    assert outcome.status == 1 and "the network's scores are not numbers" in last and not Path("p.csv").exists()


@pytest.fixture
def data(demo_root):
    made = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=48, batch_size=12, views=2)
    made.num_workers = 0
    return made


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("every", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_values_are_read_every_so_many_steps_and_at_no_other_time(data, tmp_path, every):
    made, seen = demo_module("label, all"), Watch()
    fit(made, data, [EMA(0.9), Finite(tmp_path), seen], default_root_dir=tmp_path, log_every_n_steps=every)
    assert len(seen.present) == 18
    # 6 steps per epoch, the values of its last ones read after it: with 5, in one step of each epoch
    assert len(seen.found) <= (3 if every == 5 else 0), seen.found


def scaled(tmp_path, demo_root, start: float, steps: int):
    """A training in half precision on the CPU, slow there, whose scale of gradients starts here."""
    data = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, image_size=32, batch_size=2)
    data.num_workers = 0
    made = demo_module("LabelContrastiveLoss")
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=10**6)
    fit(made, data, [Finite(tmp_path)], default_root_dir=tmp_path, max_epochs=1, max_steps=steps, log_every_n_steps=1,
        limit_val_batches=0, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])  # fmt: skip
    return made, scaler


half = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*lr_scheduler.step")


@half
def test_an_overflow_of_half_precision_is_counted_and_skipped(demo_root, tmp_path, capfd):
    made, scaler = scaled(tmp_path, demo_root, 2.0**22, 16)
    skipped = int(made.trainer.callback_metrics["gradient/overflows"])
    assert 0 < skipped < 16 and scaler.get_scale() == 2.0 ** (22 - skipped)
    assert f"fp16: {skipped} of" in capfd.readouterr().err
    assert all(p.isfinite().all() for p in made.parameters())


@half
def test_overflows_without_end_stop_the_training(demo_root, tmp_path, monkeypatch):
    monkeypatch.setattr(finite, "_HOPELESS", 4)
    with pytest.raises(MlclError, match=r"step 3 \(epoch 0\): the gradient is (inf|nan)"):
        scaled(tmp_path, demo_root, 2.0**100, 10)
