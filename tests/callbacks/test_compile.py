"""Compiled it is the same step; and the precision that the device gets."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from support.step_parts import EMBEDDINGS, SMALL, B, K, V, batch, make, module

from mlcl.callbacks import fast_step
from mlcl.callbacks.fast_step import compile_step
from mlcl.heads import HEADS
from mlcl.inference import load
from mlcl.losses import EMBEDDING_LOSSES
from mlcl.network import Network
from mlcl.runs import record

# Of each embedding loss the form that does most.
FORMS = ("label, all", "dual, means", "prototypes, means", "discriminative, cosine", "image level, projector",
         "JaccardSupConLoss")  # fmt: skip


def test_every_loss_has_a_form():
    assert {EMBEDDINGS[form][0] for form in FORMS} == set(EMBEDDING_LOSSES)


@pytest.mark.slow
def test_a_network_compiles_in_one_piece():
    made = module("SemanticAttention")
    image = batch()["image"].flatten(0, 1)
    expected = made.network(image)
    compiled = torch.compile(made.network, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(image).logits, expected.logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HEADS.keys() - {"SemanticAttention"}))
def test_a_head_compiles_in_one_piece(name):
    torch.manual_seed(0)
    head, features = make(HEADS[name]).build(6, K).eval(), torch.randn(B, 6, 3, 3)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(features).logits, head(features).logits)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * bool(i % 3)) for i, n in enumerate(FORMS)])
def test_an_embedding_loss_compiles_in_one_piece(name):
    loss = module(embedding=name).embedding_loss
    loss.capacity = 64
    embeddings = torch.randn(B, V, K, SMALL["dim"], requires_grad=True)
    target, seen = batch()["target"], []
    for backend in (None, "eager"):
        compute = torch.compile(loss.compute, fullgraph=True, backend=backend) if backend else loss.compute
        value = compute(embeddings, target)
        total = sum(value.values()) if isinstance(value, dict) else value
        seen.append(torch.autograd.grad(total, embeddings)[0])
    torch.testing.assert_close(*seen)


def steps(run: str) -> list[float]:
    rows = csv.DictReader(Path(run, "metrics.csv").read_text().splitlines())
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()


COMPILE = ["--model.embedding_loss", "DualContrastiveLoss", "--model.embedding_loss.projection", "8",
           "--trainer.log_every_n_steps", "1", "--name"]  # fmt: skip


@pytest.mark.slow
def test_compiling_changes_no_name_and_is_training_only(mlcl, demo, monkeypatch):
    """With the compiler told to leave everything as it is: that it is called, and what is written."""
    compiled: list[object] = []
    monkeypatch.setattr(fast_step, "compile_step", lambda *parts: (compiled.append(parts), compile_step(*parts)))
    with torch.compiler.set_stance("force_eager"):
        for name, flag in (("plain", "false"), ("compiled", "true")):
            done = mlcl("fit", *demo, *COMPILE, name, "--model.compile", flag, "--trainer.max_epochs", "1")
            assert done.status == 0, done.err
    assert len(compiled) == 1
    plain, same = (record.load(f"runs/{name}/version_0/checkpoints/last.ckpt") for name in ("plain", "compiled"))
    assert plain["state_dict"].keys() == same["state_dict"].keys()
    assert all(torch.equal(plain["state_dict"][key], same["state_dict"][key]) for key in plain["state_dict"])
    again = mlcl("test", "--ckpt_path", "runs/compiled/version_0")
    assert again.status == 0 and len(compiled) == 1 and "overrides" not in again.err


@pytest.mark.slow
def test_compiled_it_trains_the_same(mlcl, demo):
    for name, flag in (("plain", "false"), ("compiled", "true")):
        done = mlcl("fit", *demo, *COMPILE, name, "--model.compile", flag)
        assert done.status == 0, done.err
    # Rounding grows from step to step.
    assert steps("runs/compiled/version_0")[:3] == pytest.approx(steps("runs/plain/version_0")[:3], rel=1e-3)
    model = load("runs/compiled/version_0")
    keys = Network("test_resnet", HEADS["SemanticAttention"](128), 12).state_dict().keys()
    assert model.network.state_dict().keys() == keys
    assert mlcl("test", "--ckpt_path", "runs/compiled/version_0").status == 0


@pytest.mark.parametrize(
    ("accelerator", "cuda", "bf16", "expected"),
    [
        ("auto", True, True, "bf16-mixed"),
        ("gpu", True, True, "bf16-mixed"),
        ("auto", True, False, "32-true"),
        ("auto", False, False, "32-true"),
        ("cpu", True, True, "32-true"),
        (object(), True, True, "32-true"),
    ],
)
def test_precision_by_the_device(monkeypatch, accelerator, cuda, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert fast_step.precision_for(accelerator) == expected


@pytest.mark.slow
def test_the_precision_is_said_and_written_down(mlcl, demo, monkeypatch):
    run, end = "runs/demo/version_0", ["--trainer.max_epochs", "1", "--test_after_fit", "false"]
    with monkeypatch.context() as patched:
        patched.setattr(fast_step, "precision_for", lambda accelerator: "bf16-mixed")
        chosen = mlcl("fit", *demo, *end)
    assert chosen.status == 0 and "version_0 (bf16-mixed, as fits the device)" in chosen.err
    assert yaml.safe_load(Path(run, "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    stored = record.load(f"{run}/checkpoints/last.ckpt")
    assert record.config_of(stored, run)["trainer"]["precision"] == "bf16-mixed"
    later = mlcl("test", "--ckpt_path", run)
    assert later.status == 0 and "as fits" not in later.err
