"""A training that computes with nan or infinity stops with one line, and nothing of it is saved."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from support.fitting import Watch, demo_module, fit
from support.running import run_process

from mlcl.callbacks import EMA, Finite, finite
from mlcl.data import Demo
from mlcl.errors import MlclError

# Breaks in the step with this number, counted over the calls of a training: the demo has 4 steps per epoch.
HEAD = """
import torch
from mlcl.heads import GlobalPool
class Breaks(GlobalPool):
    def __init__(self, at: int, value: str = "nan", backward: bool = False):
        super().__init__()
        self.at, self.value, self.backward, self.calls = at, float(value), backward, 0
    def build(self, in_features, num_classes):
        self.inner = torch.nn.Identity()
        return super().build(in_features, num_classes)
    def forward(self, features):
        image = features.detach()[:1, :1, :1, :1]
        if self.training:
            self.calls += 1
        if self.training and self.calls > self.at:
            if self.backward:
                features.register_hook(lambda gradient: gradient * self.value)
            else:
                features = features * self.value
        return super().forward(self.inner(features))
"""
LOSS = """
import torch
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


def breaking(head_at: int | None = None, value: str = "nan", backward: bool = False, **flags: str) -> list[str]:
    """Flags for the head above."""
    Path("own_head.py").write_text(HEAD)
    own = ["--model.network.head", "own_head.Breaks", "--model.network.head.at", str(head_at)]
    more = ["--model.network.head.value", value, "--model.network.head.backward", str(backward).lower()]
    return [*own, *more, "--trainer.log_every_n_steps", "1"]


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("every", ["1", "3", "50"])
def test_a_broken_activation_is_named_with_its_step_and_its_batch(mlcl, demo, every, value):
    flags = [*breaking(6, value), "--trainer.log_every_n_steps", every]
    outcome = mlcl("fit", *demo, *flags, "--trainer.max_epochs", "3", "--name", "numbers")
    print(outcome.err)
    assert outcome.status == 1
    message = outcome.err.strip().splitlines()[-1]
    assert message.startswith("mlcl: step 6 (epoch 1): classification is nan; ")
    assert "output is not finite: network.head.inner" in message
    run = Path("runs/numbers/version_0")
    kept = torch.load(run / "not_finite_step_6.pt", weights_only=True)
    assert kept["step"] == 6 and kept["epoch"] == 1 and kept["seed"] == 0
    assert kept["batch"]["image"].shape == (16, 3, 48, 48) and kept["batch"]["index"].equal(kept["index"])
    assert len(kept["files"]) == 16 and all(name in message for name in kept["files"][:3])
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 0 and all(t.isfinite().all() for t in last["state_dict"].values())
    assert f"--ckpt_path {run}/checkpoints/last.ckpt" in message


LIMIT = """
import resource
from lightning import Callback
class Full(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
"""


def test_without_room_for_its_batch_it_is_told_all_the_same(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own_limit.py").write_text(LIMIT)
    full = ["--trainer.callbacks+", "own_limit.Full", "--trainer.max_epochs", "3", "--name", "numbers"]
    done = run_process("fit", *demo, *breaking(6), *full, cwd=tmp_path)
    message = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and message.startswith("mlcl: step 6 (epoch 1): classification is nan; "), done.stderr
    assert "its batch could not be saved" in message and "Traceback" not in done.stderr


def test_a_broken_gradient_is_named_by_its_parameter(mlcl, demo):
    outcome = mlcl("fit", *demo, *breaking(5, "inf", backward=True), "--test_after_fit", "false")
    assert outcome.status == 1
    message = outcome.err.strip().splitlines()[-1]
    assert message.startswith("mlcl: step 5 (epoch 1): the gradient is ")
    assert "the first gradient that is not finite: network.backbone." in message


def test_a_broken_term_is_named_by_its_logged_name(mlcl, demo):
    Path("own_loss.py").write_text(LOSS)
    outcome = mlcl("fit", *demo, "--model.embedding_loss", "own_loss.Log", "--model.embedding_loss.at", "2")
    assert outcome.status == 1
    message = outcome.err.strip().splitlines()[-1]
    assert message.startswith("mlcl: step 2 (epoch 0): wild is inf; every module's output is finite")
    assert not Path("runs/demo/version_0/checkpoints").exists()
    assert "go on with" not in message
    look = next(line for line in outcome.err.splitlines() if line.startswith("to look at it: "))
    command = look.removeprefix('to look at it: python -c "').removesuffix('"')
    shown = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert "'step': 2" in shown.stdout


@pytest.mark.parametrize("kind", ["AdamW", "RMSprop"])  # with the kernel that takes a flag, and without
def test_a_learning_rate_that_is_too_high(mlcl, demo, kind):
    """Weights that overflow in an update make the next step's first activation so."""
    optimizer = ["--model.optimizer", f"torch.optim.{kind}", "--model.optimizer.lr", "1e38"]
    outcome = mlcl("fit", *demo, *optimizer, "--model.schedule", "Constant", "--test_after_fit", "false")
    assert outcome.status == 1
    message = outcome.err.strip().splitlines()[-1]
    assert message.startswith("mlcl: step 1 (epoch 0): classification is ") and "module whose output" in message, (
        message
    )
    assert not Path("runs/demo/version_0/checkpoints").exists()


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


@pytest.mark.parametrize(("how", "says"), [("Spoil", "no checkpoint is written"), ("Unlucky", "validation images")])
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


@pytest.mark.parametrize("verb", ["test", "validate", "predict", "calibrate", "export"])
def test_weights_that_are_not_finite_are_refused_where_they_are_read(mlcl, trained, verb):
    more = {"predict": ["--images", trained, "--output", "p.csv"], "calibrate": ["--output", "c.ckpt"],
            "export": ["--format", "torch_export", "--output", "m.pt2"]}  # fmt: skip
    outcome = mlcl(verb, *spoilt(trained, "bn1.weight", float("nan")), *more.get(verb, []))
    assert outcome.status == 1 and outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("mlcl: spoilt.ckpt: network.backbone.bn1.weight is not finite"), outcome.err
    assert "give an earlier checkpoint" in outcome.err


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
@pytest.mark.parametrize("every", [5, 50])
def test_values_are_read_every_so_many_steps_and_at_no_other_time(data, tmp_path, every):
    made, seen = demo_module("label, all"), Watch()
    fit(made, data, [EMA(0.9), Finite(tmp_path, every), seen], default_root_dir=tmp_path)
    assert len(seen.present) == 18
    # 6 steps per epoch, the values of its last ones read after it: with 5, in one step of each epoch
    assert len(seen.found) <= (3 if every == 5 else 0), seen.found
    assert not hasattr(made.optimizers().optimizer, "found_inf")


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
