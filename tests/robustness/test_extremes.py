"""Trainings on what a dataset may hold at the edges: hardly a label, one image, one class, thousands."""

import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from support.fitting import fit
from support.step_parts import EMBEDDINGS, make
from support.trees import write_table

from mlcl.callbacks import Finite
from mlcl.data import CSVDataset
from mlcl.data.labels import measurable
from mlcl.heads import HEADS
from mlcl.losses import CLASSIFICATION_LOSSES, EMBEDDING_LOSSES
from mlcl.module import MultiLabelModule
from mlcl.network import Network

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
# Training targets, images per batch, side in pixels.
CASES = {
    "a class without positives, one unknown": ([[0, -1, i % 2, 1] for i in range(5)], 2, 32),
    "hardly anything present": ([*[[0, 0, 0, -1]] * 3, [1, 0, 0, -1]], 2, 32),
    "hardly anything known": ([*[[-1, -1, -1]] * 3, [1, -1, -1]], 2, 32),
    "batches without positives, and of unknowns": ([[-1, -1], [0, 0], [1, 0], [0, 1]], 1, 64),
    "one image": ([[1, 0, -1]], 4, 64),
    "one class": ([[i % 2] for i in range(4)], 2, 32),
}
# Every loss of either kind, a training has one of each; then the other forms of those on embeddings.
CLASSIFICATION = [*CLASSIFICATION_LOSSES] * 2
LOSSES = [*zip(CLASSIFICATION, EMBEDDING_LOSSES, strict=False)]
FORMS = [*zip(CLASSIFICATION, [name for name in EMBEDDINGS if name not in EMBEDDING_LOSSES], strict=False)]


def table(root, targets):
    """A picture per row, the same rows to train and to test, and an image more: the last batch of a test has one."""
    names = ",".join(f"c{k}" for k in range(len(targets[0])))
    rows = [f"{kind}{i}.jpg,{','.join(map(str, row))},{kind}" for kind, more in (("train", []), ("test", targets[:1]))
            for i, row in enumerate([*targets, *more])]  # fmt: skip
    return write_table(root, [f"image,{names},split", *rows])


def fitting(kind, sizes):
    return {name: size for name, size in sizes.items() if name in inspect.signature(kind).parameters}


def trains(folder, targets, batch_size, side, classification, embedding, head="SemanticAttention"):
    """Train an epoch or two; every term is finite, weights change, and what is measured is there."""
    classes = len(targets[0])
    data = CSVDataset(root=str(table(folder / "data", targets)), image_size=side, batch_size=batch_size, num_workers=0)
    torch.manual_seed(0)
    network = Network("test_resnet", make(HEADS[head]), classes)
    kind, settings = EMBEDDINGS[embedding]
    sizes = {"num_classes": classes, "dim": network.embedding_dim, "class_counts": [1.0] * classes}
    loss, plain = EMBEDDING_LOSSES[kind], CLASSIFICATION_LOSSES[classification]
    made = make(plain, **fitting(plain, sizes)), make(loss, **fitting(loss, sizes), **settings)
    module = MultiLabelModule(network, *made)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    trainer = fit(module, data, [Finite(folder)], default_root_dir=folder, max_epochs=1, log_every_n_steps=1)
    assert trainer.global_step == max(1, len(targets) // batch_size)
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    terms = [name for name in values if name.startswith("train/")]
    assert len(terms) >= 3 and all(math.isfinite(values[name]) for name in (*terms, "val/classification"))
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in network.named_parameters())
    evaluation = module.val_metrics.evaluation
    assert evaluation.logits.shape == (len(targets) + 1, classes) and evaluation.logits.isfinite().all()
    measured = torch.from_numpy(measurable(evaluation.targets.numpy()))
    assert torch.equal(~evaluation.class_ap.isnan(), measured) and math.isnan(values["val/mAP"]) != measured.any()
    return values


# Every loss on one case and every case with some loss; the other pairs are slow.
QUICK = {(case, LOSSES[n % len(LOSSES)]) for n, case in enumerate(CASES)}
QUICK |= {([*CASES][(n + 1) % len(CASES)], loss) for n, loss in enumerate(LOSSES)}
PAIRS = [
    pytest.param(case, *losses, marks=[] if (case, losses) in QUICK else [pytest.mark.slow])
    for case in CASES
    for losses in [*LOSSES, *FORMS]
]


@pytest.mark.parametrize(("case", "classification", "embedding"), PAIRS)
def test_every_loss_trains(case, classification, embedding, tmp_path):
    trains(tmp_path, *CASES[case], classification, embedding)


K = 5000
THOUSANDS = {
    "CSRA": "prototypes, means",
    "GlobalPool": "MulSupConLoss",
    "LabelAttention": "label, all",
    "MLDecoder": "JaccardSupConLoss",
    "QueryDecoder": "dual, means",
    "SemanticAttention": "DiscriminativeLoss",
}


THOUSANDS_OF = [(head, THOUSANDS.get(head, "LabelContrastiveLoss")) for head in HEADS]


@pytest.mark.parametrize(
    ("head", "embedding"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * (pair[0] != "GlobalPool")) for pair in THOUSANDS_OF],
)
def test_thousands_of_classes(head, embedding, tmp_path):
    rows = [[int(k % 1000 == i) for k in range(K)] for i in range(4)]
    trains(tmp_path, rows, 2, 32, "AsymmetricLoss", embedding, head)


FLAGS = [
    *("--data", "CSVDataset", "--data.root", "data", "--data.num_workers", "0", "--data.image_size", "32"),
    *("--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"),
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--name", "edge"),
]


@pytest.mark.parametrize("case", ["hardly anything known", "one class"])
def test_from_the_command_line(mlcl, case):
    targets, batch_size, _ = CASES[case]
    table(Path("data"), targets)
    outcome = mlcl("fit", *FLAGS, "--data.batch_size", batch_size, "--model.embedding_loss", "DualContrastiveLoss")
    assert outcome.status == 0 and "Warning" not in outcome.err, outcome.err
    written = json.loads(Path("runs/edge/version_0/metrics.json").read_text())
    assert written["N"] == len(targets) + 1 and written["num_classes"] == len(targets[0])
    assert (written["metrics"]["mAP"] is None) == (case == "hardly anything known")  # and nothing to be absent


@pytest.mark.parametrize("row", [[0, 0], [-1, -1]], ids=["absent", "unknown"])
def test_a_training_without_a_label_is_refused(mlcl, row):
    table(Path("data"), [row] * 4)
    outcome = mlcl("fit", *FLAGS)
    assert outcome.status == 1 and "Traceback" not in outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("mlcl: CSVDataset at ") and "none of its 4 train images has a label" in last
    assert not list(Path("runs").rglob("*.ckpt"))


def test_a_test_without_a_label_has_no_map_and_that_is_said(mlcl):
    write_table(Path("data"), ["image,a,split", "0.jpg,1,train", "1.jpg,0,train", "t0.jpg,0,test", "t1.jpg,-1,test"])
    outcome = mlcl("fit", *FLAGS, "--data.batch_size", "2")
    assert outcome.status == 0 and "warning: val/mAP will choose no epoch" in outcome.err, outcome.err
    written = json.loads(Path("runs/edge/version_0/metrics.json").read_text())
    assert written["metrics"]["mAP"] is None and written["classes_without_positives"] == ["a"]


def test_an_image_alone_before_a_batch_norm_is_one_line(mlcl):
    table(Path("data"), [[1, 0], [0, 1]])
    outcome = mlcl("fit", *FLAGS, "--data.batch_size", "1")
    assert outcome.status == 1
    *_, last = outcome.err.strip().splitlines()
    remedy = ["--model.network.freeze_batch_norm", "true"]
    assert " ".join(remedy) in last and "--data.batch_size" in last and "--data.image_size" in last
    assert mlcl("fit", *FLAGS, "--data.batch_size", "1", *remedy, "--test_after_fit", "false").status == 0
