"""Real gloo groups: gradients and metrics of W processes equal those of one."""

import contextlib
import copy
import functools
import inspect
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.gloo import run_group
from support.running import run_process
from support.wandb_file import read_run
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlcl.analysis.localisation import MEASURES
from mlcl.callbacks import Finite, UnknownLabels
from mlcl.callbacks.one_run import naming_ranks
from mlcl.data.dataset import Samples
from mlcl.data.hiding import hide
from mlcl.data.sampler import EpochSampler
from mlcl.distributed import SharedError, broadcast_buffers, global_batch, rank, require_equal, world_size
from mlcl.heads import SemanticAttention
from mlcl.losses import CLASSIFICATION_LOSSES, EMBEDDING_LOSSES
from mlcl.losses.unknown import Rule
from mlcl.metrics import MultiLabelMetrics
from mlcl.module import MultiLabelModule
from mlcl.network import Network
from mlcl.runs.results import read
from mlcl.system.seeding import global_seed

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


@functools.cache
def _network():
    torch.manual_seed(0)
    return Network("test_resnet", SemanticAttention(D), K, freeze_batch_norm=True)


class Trained(nn.Module):
    """Backbone, head and losses as the module trains them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        network = copy.deepcopy(_network())  # to make one takes longer than a step
        torch.manual_seed(0)
        kind, settings = LOSSES[name]
        taken = inspect.signature(EMBEDDING_LOSSES[kind]).parameters
        settings = {**{k: v for k, v in {"num_classes": K, "dim": D}.items() if k in taken}, **settings}
        self.module = MultiLabelModule(network, embedding_loss=EMBEDDING_LOSSES[kind](**settings)).double()

    def forward(self, image, target):
        return self.module.losses({"image": image, "target": target})["loss"]


def _trained(rank: int, size: int, name: str, equal: bool = False):
    """Gradients of the second step, when a bank holds the first one's embeddings, and the state that it leaves.

    With equal batches as in a training: nobody asks for the number of images or of rows.
    """
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(12, 2, 3, 33, 33, generator=generator, dtype=torch.float64)  # a map of 2 x 2
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


RULES = {rule: ("BinaryCrossEntropy", rule) for rule in Rule.__args__}
RULES |= {"per class and image": ("TwoWayLoss", "ignore"), "sums": ("ZLPRLoss", "weak_negative")}
IMAGES = 12


class Classifier(nn.Module):
    """Logits of two views by one layer, and the classification loss of the step as the module computes it."""

    def __init__(self, loss: str, rule: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.classification_loss = nn.Linear(3, K).double(), CLASSIFICATION_LOSSES[loss]()
        self.unknown = UnknownLabels(rule, 0.15 if "large" in rule else None)
        self.unknown.epoch, self.unknown.corrected = 2, torch.zeros(IMAGES + 1, K, dtype=torch.bool)

    def forward(self, image, target, index, equal):
        self.equal_batches = equal
        return self.unknown.loss(self, *global_batch(self.layer(image), target, equal), {"index": index})


def _classified(rank: int, size: int, name: str, equal: bool = False):
    """Loss, gradients and memory after two steps; the ranks know very different numbers of labels."""
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(IMAGES, 2, 3, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 2, (IMAGES, K), generator=generator)
    target[torch.rand(IMAGES, K, generator=generator) > torch.linspace(0, 1, IMAGES)[:, None]] = -1
    index = torch.randperm(IMAGES, generator=generator)
    index[3] = -1
    cuts = [0, *{1: (12,), 2: (5, 12), 3: (4, 5, 12)}[size]]
    own = slice(IMAGES * rank // size, IMAGES * (rank + 1) // size) if equal else slice(cuts[rank], cuts[rank + 1])
    model = Classifier(*RULES[name])
    wrapped = DistributedDataParallel(model) if size > 1 else model
    for _ in range(2):
        model.zero_grad()
        loss = wrapped(image[own], target[own], index[own], equal)
        loss.backward()
    gradients = [parameter.grad for parameter in model.layer.parameters()]
    return {"loss": loss.detach(), "gradients": gradients, "corrected": model.unknown.corrected}


def _hidden():
    samples = Samples([Path(f"/data/{n}.jpg") for n in range(50)], (np.arange(50)[:, None] >> np.arange(K) & 1) * 2 - 1)
    return torch.from_numpy(hide(samples, Path("/data"), global_seed(), 0.5, False)[0].targets)


def _everything(rank: int, size: int):
    """All that a group computes, in one go: starting its processes costs more than the rest."""
    return {
        "losses": {name: _trained(rank, size, name) for name in LOSSES},
        "equal": {name: _trained(rank, size, name, equal=True) for name in EQUAL},
        "rules": {(name, equal): _classified(rank, size, name, equal) for name in RULES for equal in (False, True)},
        "hidden": _hidden(),
        "even": _gradients(rank, size, uneven=False),
        "even, known": _gradients(rank, size, uneven=False, equal=True),
        "uneven": _gradients(rank, size, uneven=True),
        "metrics": _metrics(rank, size),
        "buffers": _buffers(),
        "blamed": _blamed(rank, size),
        "refused": [_refused(rank, None), _refused(rank, "model.optimizer.lr")],
        "lost": _lost(rank),
    }


# Two ranks compute what three do, of which one is without positives, too; the training at the end has two.
@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return run_group(request.param, _everything, tmp_path_factory.mktemp("group"))


_trained_alone = functools.cache(functools.partial(_trained, 0, 1))  # what every group is compared with


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
    alone = _trained_alone(name)
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


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_classification_and_unknown_labels_give_the_numbers_of_one_process(group, name: str, equal: bool):
    """Ranks with different numbers of images and of known labels; the ranking and the memory are those of the step."""
    alone = _classified(0, 1, name)
    assert alone["gradients"][0].abs().max() > 0 and alone["corrected"].any() == ("permanent" in name)
    for member in (everything["rules"][name, equal] for everything in group):
        torch.testing.assert_close(member, alone, rtol=1e-6 if name == "sums" else 1e-10, atol=1e-12)
        assert torch.equal(member["corrected"], alone["corrected"])


def test_every_rank_hides_the_same_labels(group):
    assert all(torch.equal(member["hidden"], _hidden()) for member in group) and (_hidden() == -1).sum() > 50


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


def _refused(rank: int, key: str | None):
    facts = {"mlcl": "0.1.0", "model.lr_mult": [1, 2], **({key: rank} if key else {})}
    try:
        require_equal(facts, "not alike")
    except SharedError as error:
        return str(error)
    return ""


def _blamed(rank: int, size: int):
    """What stops a training whose loss, that of all ranks, is broken by the logits of the last one."""
    module = SimpleNamespace(device="cpu", own_logits=torch.full((2, K), torch.nan if rank == size - 1 else 1.0))
    trainer = SimpleNamespace(log_every_n_steps=1, precision_plugin=None, global_step=0, current_epoch=0)
    watch = Finite(Path("run"))
    watch.on_train_start(trainer, module)
    try:
        watch.on_train_batch_end(trainer, module, {"loss": torch.tensor(torch.nan)}, {"index": torch.tensor([rank])}, 0)
    except SharedError as error:
        return str(error)
    return ""


def test_the_rank_whose_logits_are_broken_is_named(group):
    last = len(group) - 1
    line = f"step 0 (epoch 0) on rank {last}: loss is nan; the images of its batch: number {last}"
    assert all(member["blamed"].startswith(line) for member in group)


def test_ranks_that_differ_are_refused_alike(group):
    line = "not alike: model.optimizer.lr is 0 on rank 0 and 1 on rank 1"
    assert all(member["refused"] == ["", line] for member in group)


def _lost(rank: int):
    """What the command says when a rank fails by itself, when all do, and when a collective breaks."""
    os.environ["LOCAL_RANK"] = str(rank)
    said = []
    for error in (OSError("no disk"), SharedError("all alike"), RuntimeError("[gloo/pair.cc] Connection closed")):
        err = io.StringIO()
        try:
            with contextlib.redirect_stderr(err), naming_ranks():
                raise error
        except Exception as raised:
            said.append([type(raised).__name__, err.getvalue()])
    return said


def test_a_rank_that_fails_by_itself_is_named(group):
    for number, member in enumerate(group):
        (own, line), (alike, nothing), (lost, silent) = member["lost"]
        assert (own, alike, lost) == ("OSError", "SharedError", "SharedError") and not nothing + silent
        assert (f"rank {number}" in line and "no disk" in line) == (number > 0)  # the command line says the first one's


# A callback of a user's: the ranks have the same weights, and the backbone is trained in the second epoch only.
SAME = """
from lightning import Callback
from mlcl.distributed import require_equal
class Same(Callback):
    def sums(self, module):
        return {name: float(parameter.detach().double().sum()) for name, parameter in module.named_parameters()}
    def on_train_start(self, trainer, module):
        self.before = self.sums(module)
    def on_train_epoch_end(self, trainer, module):
        now, before = self.sums(module), self.before
        require_equal(now, "the weights differ")
        moved = {name.split(".")[1] for name in now if now[name] != before[name]}
        assert moved >= {"head"} and ("backbone" in moved) == (trainer.current_epoch > 0), moved
"""


@pytest.mark.slow  # ranks that train in the normal suite: robustness/test_nodes.py
def test_fit_on_two_processes(mlcl, trained: Path, demo: list[str]):
    """A second stage with everything that crosses ranks, logged to W&B, with an odd number of test images.

    The backbone is frozen in the first epoch: DDP learns then, and again, which parameters get a gradient.
    """
    Path("own_same.py").write_text(SAME)
    flags = [
        *("--model.network.freeze_epochs", "1", "--trainer.callbacks+", "own_same.Same"),
        *("--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.num_workers", "1"),
        *("--model.embedding_loss", "DualContrastiveLoss", "--model.embedding_loss.confidence", "0.1"),
        *("--model.init_from", str(trained), "--ema_decay", "0.9", "--data.val_fraction", "0.14"),
        *("--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true", "--trainer.log_every_n_steps", "2"),
        *("--log_images", "0", "--localise", "true"),
    ]
    here = Path.cwd()
    done = run_process("fit", *demo, *flags, cwd=here, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    assert "recommended" not in done.stderr and "Warning" not in done.stderr
    (run,) = Path("runs/demo").iterdir()
    assert run.name == "version_0" and json.loads((run / "metrics.json").read_text())["N"] == 25
    for text, times in (("epoch   1/2", 1), ("prototypes: ", 1)):
        assert done.stderr.count(text) == times, done.stderr
    assert done.stdout.count("results in") == 1
    checkpoint = run / "checkpoints" / "best.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert state["embedding_loss.bank.written"].sum() > 0
    (folder,) = run.glob("wandb/offline-run-*")
    tracked = read_run(folder)
    assert len([row for row in tracked.history if "val/mAP" in row]) == 2 and tracked.configured == 1
    assert {"test/per_class", "test/embeddings"} <= {*tracked.summary}
    assert mlcl("test", "--ckpt_path", checkpoint, "--trainer.logger", "false", "--localise", "true").status == 0
    both, one = (json.loads((run / name / "metrics.json").read_text()) for name in (".", "test_0"))
    assert both["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    looks, look = (read(run / name).localisation for name in (".", "test_0"))
    assert looks.index.tolist() == look.index.tolist() and looks.classes.tolist() == look.classes.tolist()
    for name in MEASURES:
        assert getattr(looks, name) == pytest.approx(getattr(look, name), abs=1e-5, nan_ok=True)
