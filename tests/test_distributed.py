"""Real gloo groups: gradients and metrics of W processes equal those of one."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from support.gloo import run_group
from support.own_classes import LOSS
from support.running import run_process
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlcl.data.sampler import EpochSampler
from mlcl.distributed import broadcast_buffers, global_batch, rank, require_equal, world_size
from mlcl.errors import MlclError
from mlcl.heads import SemanticAttention
from mlcl.losses import EMBEDDING_LOSSES
from mlcl.metrics import MultiLabelMetrics
from mlcl.module import MultiLabelModule
from mlcl.network import Network

N, K, D = 23, 5, 4  # 23 divides by neither 2 nor 3


class WithPrototypes(nn.Module):
    """A network, and a loss with parameters of its own that no slice of the batch can explain."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(3, K * D).double()
        self.projector = nn.Linear(D, D).double()
        self.prototypes = nn.Parameter(torch.randn(K, D, dtype=torch.float64))

    def forward(self, image, target, equal=False):
        embeddings, target = global_batch(self.network(image).unflatten(1, (K, D)), target, equal)
        active = self.projector(embeddings)[target == 1]
        prototypes = self.projector(self.prototypes)
        scores = active @ prototypes.T / 0.2
        own = (target == 1).nonzero()[:, 1]
        return nn.functional.cross_entropy(scores, own) if len(own) else scores.sum()


def _data():
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(12, 3, dtype=torch.float64, generator=generator)
    target = (torch.rand(12, K, generator=generator) < 0.3).long()
    target[:4] = 0  # a rank without positives
    target[5, 2] = -1
    return image, target


def _gradients(rank: int, size: int, uneven: bool, equal: bool = False):
    image, target = _data()
    cuts = [0, *((5, 12) if size == 2 else (4, 5, 12))] if uneven else [12 * r // size for r in range(size + 1)]
    model = DistributedDataParallel(WithPrototypes())
    own = slice(cuts[rank], cuts[rank + 1])
    model(image[own], target[own], equal).backward()
    return {name: parameter.grad for name, parameter in model.module.named_parameters()}


LOSSES = {
    "label": ("LabelContrastiveLoss", {"projection": 3}),
    "label, bank": ("LabelContrastiveLoss", {"projection": 3, "bank": 4, "confidence": 0.0, "hard_negatives": 2}),
    "prototypes": ("PrototypeContrastiveLoss", {"projection": 3}),
    "running means": ("PrototypeContrastiveLoss", {"prototypes": "mean", "absent": "push"}),
    "dual": ("DualContrastiveLoss", {"projection": 3, "bank": 0}),
    "dual, bank": ("DualContrastiveLoss", {"projection": 3, "bank": 4, "confidence": 0.0}),
    "discriminative": ("DiscriminativeLoss", {}),
    "image level": ("MulSupConLoss", {"projection": 3}),
    "image level, jaccard": ("JaccardSupConLoss", {"projection": 3}),
}
EQUAL = ("label, bank", "dual, bank", "discriminative", "image level")  # also with batches known to be equal


class Trained(nn.Module):
    """Backbone, head and loss as the module trains them; the classification loss, a mean per process, taken out."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind, settings = LOSSES[name]
        network = Network("test_resnet", SemanticAttention(D), K, freeze_batch_norm=True)
        taken = inspect.signature(EMBEDDING_LOSSES[kind]).parameters
        settings = {**{k: v for k, v in {"num_classes": K, "dim": D}.items() if k in taken}, **settings}
        self.module = MultiLabelModule(network, embedding_loss=EMBEDDING_LOSSES[kind](**settings)).double()

    def forward(self, image, target):
        terms = self.module.losses({"image": image, "target": target})
        return terms["loss"] - terms["classification"]


def _trained(rank: int, size: int, name: str, equal: bool = False):
    """Gradients of the second step, when a bank holds the first one's embeddings, and the state that it leaves.

    With equal batches as in a training: nobody asks for the number of images or of rows.
    """
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(12, 2, 3, 64, 64, generator=generator, dtype=torch.float64)
    target = _data()[1]
    cuts = [0, *{1: (12,), 2: (5, 12), 3: (4, 5, 12)}[size]]
    own = slice(12 * rank // size, 12 * (rank + 1) // size) if equal else slice(cuts[rank], cuts[rank + 1])
    model = Trained(name)
    model.module.equal_batches, model.module.embedding_loss.capacity = equal, 64 if equal else None
    wrapped = DistributedDataParallel(model) if size > 1 else model
    for shift in (0, 1):
        model.zero_grad()
        wrapped(image[own].roll(shift, -1), target[own]).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"gradients": gradients, "state": dict(model.module.embedding_loss.named_buffers())}


def _everything(rank: int, size: int):
    """All that a group computes, in one go: starting its processes costs more than the rest."""
    return {
        "losses": {name: _trained(rank, size, name) for name in LOSSES},
        "equal": {name: _trained(rank, size, name, equal=True) for name in EQUAL},
        "even": _gradients(rank, size, uneven=False),
        "even, known": _gradients(rank, size, uneven=False, equal=True),
        "uneven": _gradients(rank, size, uneven=True),
        "metrics": _metrics(rank, size),
        "buffers": _buffers(),
    }


@pytest.fixture(scope="module", params=[2, 3])
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return run_group(request.param, _everything, tmp_path_factory.mktemp("group"))


@pytest.mark.parametrize("kind", ["even", "even, known", "uneven"])
def test_gradient_of_every_parameter_equals_one_process(group, kind: str):
    model = WithPrototypes()
    model(*_data()).backward()
    for member in group:
        gradients = member[kind]
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "name"), [*(("losses", name) for name in LOSSES), *(("equal", name) for name in EQUAL)]
)
def test_every_embedding_loss_gives_the_gradients_and_the_state_of_one_process(group, name: str, kind: str):
    """Backbone, head, projector, prototypes, bank; ranks uneven or not, one of them without a positive."""
    alone = _trained(0, 1, name)
    learned = [n for n, gradient in alone["gradients"].items() if gradient.abs().max() > 0]
    for part in ("backbone", "head.value", "head.class_maps", "projector", "prototypes"):
        held = any(part in n for n in alone["gradients"])
        assert any(part in n for n in learned) or not held or (part, name) == ("prototypes", "running means")
    assert ("bank" in name) == any("rows" in n and tensor.numel() > 0 for n, tensor in alone["state"].items())
    for member in (everything[kind][name] for everything in group):
        for n, gradient in alone["gradients"].items():
            assert (member["gradients"][n] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, n
        for n, tensor in alone["state"].items():
            torch.testing.assert_close(member["state"][n], tensor, rtol=1e-9, atol=1e-12, msg=n)


def test_one_process_gets_its_own_tensors_back():
    embeddings, targets = torch.randn(2, K, D), torch.zeros(2, K)
    assert global_batch(embeddings, targets)[0] is embeddings and global_batch(embeddings, targets)[1] is targets
    assert (world_size(), rank()) == (1, 0)


def _scored():
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(-1, 2, (N, K), generator=generator)
    targets[:, 3] = 0  # a class without positives
    return torch.randn(N, K, generator=generator).mul(4).round().div(4), targets  # with ties


def _metrics(rank: int, size: int):
    logits, targets = _scored()
    sampler = EpochSampler(range(N), seed=0, shuffle=False)
    metrics = MultiLabelMetrics(K)
    rows = torch.tensor([index for _, index in sampler])
    for part in rows.split(3):
        metrics.update(logits[part], targets[part], part)
    values = metrics.compute()
    return {
        **values,
        "n": len(metrics.evaluation.logits),
        "padded": len(rows) * size,
        "ap": metrics.evaluation.class_ap,
    }


def test_metrics_equal_one_process(group):
    logits, targets = _scored()
    metrics = MultiLabelMetrics(K)
    metrics.update(logits, targets, torch.arange(N))
    expected = metrics.compute()
    for values in (member["metrics"] for member in group):
        assert values["padded"] > N == values["n"]
        torch.testing.assert_close(values["ap"], metrics.evaluation.class_ap, rtol=0, atol=1e-12, equal_nan=True)
        for name, value in expected.items():
            torch.testing.assert_close(values[name], value, rtol=0, atol=1e-12, msg=name)


def _buffers():
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(rank())
    broadcast_buffers(norm)
    return norm.running_mean


def test_buffers_of_the_first_rank(group):
    assert all((member["buffers"] == 0).all() for member in group)


def test_fit_on_two_processes(tmp_path: Path, demo: list[str]):
    """With a loss that has parameters, EMA and an odd number of test images; from the command line, as a user would."""
    (tmp_path / "own_loss.py").write_text(LOSS)
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.num_workers", "1"]
    own = ["--model.embedding_loss", "own_loss.Pull"]
    done = run_process("fit", *demo, *ddp, *own, "--data.val_fraction", "0.14", cwd=tmp_path, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    assert "recommended" not in done.stderr and "Warning" not in done.stderr
    runs = list((tmp_path / "runs" / "demo").iterdir())
    assert [run.name for run in runs] == ["version_0"]
    assert json.loads((runs[0] / "metrics.json").read_text())["N"] == 25
    assert done.stdout.count("results in") == 1 and done.stderr.count("epoch   1/2") == 1
    checkpoint = runs[0] / "checkpoints" / "best.ckpt"
    alone = run_process("test", "--ckpt_path", checkpoint, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    both, one = (json.loads((runs[0] / name / "metrics.json").read_text())["metrics"] for name in (".", "test_0"))
    assert both == pytest.approx(one, abs=1e-6)
    again = run_process(
        "test", "--ckpt_path", "last", "--name", "demo", *ddp[:4], cwd=tmp_path, GLOO_SOCKET_IFNAME="lo"
    )
    assert again.returncode == 0, again.stderr
    assert json.loads((runs[0] / "test_1" / "metrics.json").read_text())["N"] == 25
    dual = ["--model.embedding_loss", "DualContrastiveLoss", "--model.embedding_loss.confidence", "0.1"]
    second = [
        *dual,
        "--model.init_from",
        "runs/demo",
        "--name",
        "second",
        "--trainer.max_epochs",
        "1",
        "--ema_decay",
        "null",
    ]
    done = run_process("fit", *demo, *ddp, *second, cwd=tmp_path, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("prototypes: ") == 1 and "Warning" not in done.stderr
    state = torch.load(tmp_path / "runs/second/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["embedding_loss.bank.written"].sum() > 0


def _refused(rank: int, size: int, key: str | None):
    facts = {"mlcl": "0.1.0", "model.lr_mult": [1, 2], **({key: rank} if key else {})}
    try:
        require_equal(facts, "not alike")
    except MlclError as error:
        return str(error)
    return ""


def _facts(rank: int, size: int):
    return [_refused(rank, size, None), _refused(rank, size, "model.optimizer.lr")]


def test_ranks_that_differ_are_refused_alike(tmp_path):
    line = "not alike: model.optimizer.lr is 0 on rank 0 and 1 on rank 1"
    assert run_group(3, _facts, tmp_path / "group") == [["", line]] * 3
