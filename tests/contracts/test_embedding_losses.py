"""What every embedding loss promises, checked for every class that the package finds, against slow loops."""

import inspect
import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from mlcl.losses import EMBEDDING_LOSSES, EmbeddingLoss, LabelContrastiveLoss, PrototypeContrastiveLoss

B, K, D = 5, 4, 3
CASES = ("mixed", "no positives", "all positive", "all unknown", "one image", "one positive", "one class")
# Every class with its defaults (so a new file needs no edit here), and the forms with a state or parameters of ours.
PARTS = {"projection": 5, "bank": 2, "num_classes": K, "dim": D}
VARIANTS: dict[str, tuple[str, dict]] = {
    **{name: (name, {}) for name in EMBEDDING_LOSSES},
    "DualContrastiveLoss": ("DualContrastiveLoss", {"projection": 0}),
    "label, projector, bank": ("LabelContrastiveLoss", PARTS),
    "label, bank, hard negatives": ("LabelContrastiveLoss", {**PARTS, "projection": 0, "hard_negatives": 3}),
    "prototypes, projector": ("PrototypeContrastiveLoss", {"projection": 5}),
    "running means, pushed": ("PrototypeContrastiveLoss", {"prototypes": "mean", "absent": "push"}),
    "dual, projector": ("DualContrastiveLoss", {"projection": 5, "bank": 2}),
    "running means, projector": ("PrototypeContrastiveLoss", {"prototypes": "mean", "projection": 5}),
    "dual, running means": ("DualContrastiveLoss", {"projection": 0, "bank": 2, "prototypes": "mean"}),
}
PER_CLASS = ("prototypes", "known", "rows", "written")  # state that must be permuted together with the classes
every_loss = pytest.mark.parametrize("name", VARIANTS)
comparing_loss = pytest.mark.parametrize(
    "name", [name for name, (kind, _) in VARIANTS.items() if EMBEDDING_LOSSES[kind].compares_rows]
)


def make(name: str, **settings) -> EmbeddingLoss:
    """Sized for the batch below; a state is filled by an earlier batch, with one class never confident."""
    torch.manual_seed(0)
    kind, own = VARIANTS.get(name, (name, {}))
    required = {k for k, p in inspect.signature(EMBEDDING_LOSSES[kind]).parameters.items() if p.default is p.empty}
    sizes = {k: v for k, v in {"num_classes": K, "dim": D}.items() if k in required}
    loss = EMBEDDING_LOSSES[kind](**{**sizes, **own, **settings}).double()
    embeddings, targets = torch.randn(6, 2, K, D, dtype=torch.float64), torch.ones(6, K, dtype=torch.long)
    loss.update(embeddings, targets, torch.tensor([0.9, 0.95, 0.1, 0.99]).expand(6, 2, K))
    return loss


def batch(case: str, views: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(case))
    embeddings = torch.randn(B, views, K, D, generator=generator, dtype=torch.float64).to(dtype)
    targets = {
        "mixed": torch.tensor([[1, 0, 1, 0], [1, 1, 0, -1], [0, 0, 0, 0], [-1, 1, 1, 0], [1, 0, -1, 0]]),
        "no positives": torch.zeros(B, K, dtype=torch.long),
        "all positive": torch.ones(B, K, dtype=torch.long),
        "all unknown": -torch.ones(B, K, dtype=torch.long),
        "one image": torch.tensor([[1, 0, 1, -1]]),
        "one positive": torch.eye(B, K, dtype=torch.long) * torch.tensor([1, 0, 0, 0]),
        "one class": torch.tensor([[1, 0, 0, 0]]).repeat(B, 1),
    }[case]
    return embeddings[: len(targets)], targets


@every_loss
@pytest.mark.parametrize(("dtype", "views"), [(torch.float32, 1), (torch.bfloat16, 2), (torch.float16, 3)])
def test_value_and_every_gradient_are_finite(name, dtype, views):
    """Every parameter has a gradient in every step: DDP stops on unused ones."""
    for case in CASES:
        loss, (embeddings, targets) = make(name).float(), batch(case, views, dtype)
        embeddings.requires_grad_()
        value = loss(embeddings, targets)
        value.backward()
        assert value.ndim == 0 and value.dtype == torch.float32 and value.isfinite(), case
        for tensor in (embeddings, *loss.parameters()):
            assert tensor.grad is not None and tensor.grad.isfinite().all(), case
        if case in ("no positives", "all unknown") and "pushed" not in name:
            assert value == 0 and embeddings.grad.abs().max() == 0, case


@every_loss
def test_extreme_lengths_do_no_harm(name):
    for case, scale in itertools.product(CASES, (0.0, 1e-20, 1e15)):
        embeddings, targets = batch(case, dtype=torch.float32)
        scaled = (embeddings * scale).requires_grad_()
        value = make(name).float()(scaled, targets)
        value.backward()
        assert value.isfinite() and scaled.grad.isfinite().all(), (case, scale)


@every_loss
def test_gradient_is_that_of_the_value(name):
    embeddings, targets = batch("mixed")
    loss = make(name)
    parameters = list(loss.parameters())
    inputs = [embeddings.requires_grad_(), *parameters]
    for loss.capacity in (None, 20):
        assert torch.autograd.gradcheck(lambda e, *_: loss(e, targets), inputs, fast_mode=True)


@comparing_loss
def test_a_fixed_number_of_rows_changes_nothing(name):
    """Neither the value nor a gradient, whether the rows just fit or most of them are padding."""
    for case, views in [*((case, 2) for case in CASES), ("mixed", 1)]:
        results = []
        embeddings, targets = batch(case, views)
        for spare in (None, 0, 29):
            loss, x = make(name), embeddings.clone().requires_grad_()
            loss.capacity = None if spare is None else max(1, views * int((targets == 1).sum())) + spare
            value = loss(x, targets)
            value.backward()
            results.append([value, x.grad, *(parameter.grad for parameter in loss.parameters())])
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-12)


@comparing_loss
def test_padding_survives_any_embeddings(name):
    """The first entry, which stands for nothing, may be unknown and infinite."""
    embeddings, targets = batch("mixed")
    targets[0, 0], embeddings[0, :, 0] = -1, torch.inf
    loss = make(name)
    loss.capacity = 40
    if "hard negatives" not in name and "dual" not in name.lower():
        x = embeddings.requires_grad_()
        loss(x, targets).backward()
        assert x.grad.isfinite().all()


@comparing_loss
def test_too_few_rows_are_an_error_never_a_silent_cut(name):
    embeddings, targets = batch("all positive")
    loss = make(name)
    loss.capacity = embeddings.shape[:3].numel() - 1
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        loss(embeddings, targets)
    loss.eval()(embeddings, targets)  # a batch of another origin has a number of its own


@every_loss
def test_order_of_images_classes_and_views_does_not_matter(name):
    """This alone catches the anchor mask in the wrong order of SADCL's released code."""
    loss, (embeddings, targets) = make(name), batch("mixed")
    expected = loss(embeddings, targets)
    rows = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(loss(embeddings[rows], targets[rows]), expected)
    torch.testing.assert_close(loss(embeddings.flip(1), targets), expected)
    columns = torch.tensor([2, 0, 3, 1])
    for key, tensor in loss.state_dict().items():
        if key.rpartition(".")[2] in PER_CLASS and len(tensor):
            tensor.copy_(tensor[columns])
    torch.testing.assert_close(loss(embeddings[:, :, columns], targets[:, columns]), expected)


@every_loss
def test_an_unknown_entry_has_no_say(name):
    loss, (embeddings, targets) = make(name), batch("mixed")
    unknown = (targets < 0)[:, None, :, None]
    changed = torch.where(unknown, torch.randn_like(embeddings), embeddings).requires_grad_()
    value = loss(changed, targets)
    value.backward()
    torch.testing.assert_close(value, loss(embeddings, targets))
    assert (changed.grad[unknown.expand_as(changed)] == 0).all()


@every_loss
def test_one_view_needs_no_axis_and_length_does_not_matter(name):
    loss, (embeddings, targets) = make(name), batch("mixed", views=1)
    torch.testing.assert_close(loss(embeddings[:, 0], targets), loss(embeddings, targets))
    if "projector" not in name:
        torch.testing.assert_close(loss(embeddings * 7, targets), loss(embeddings, targets))


@every_loss
def test_state_does_not_depend_on_the_batch(name):
    loss, (embeddings, targets) = make(name), batch("mixed")
    before = {key: value.shape for key, value in loss.state_dict().items()}
    for rows in (slice(None), slice(2)):
        loss(embeddings[rows], targets[rows])
        loss.update(embeddings[rows], targets[rows], torch.full((*embeddings[rows].shape[:3],), 0.9))
    assert {key: value.shape for key, value in loss.state_dict().items()} == before
    assert "projector" in name or all(B not in shape for shape in before.values())


@every_loss
def test_a_state_may_change_before_the_backward_pass(name):
    """As in training: loss, update, backward; and an overflow does not stay in the state."""
    loss, (embeddings, targets) = make(name), batch("mixed")
    value = loss(embeddings.requires_grad_(), targets)
    loss.update(embeddings.detach(), targets, torch.ones(embeddings.shape[:3]))
    value.backward()
    broken = torch.where(torch.rand(embeddings.shape) < 0.2, torch.inf, embeddings.detach())
    loss.update(broken, targets, torch.ones(embeddings.shape[:3]))
    assert loss(embeddings, targets).isfinite()


@every_loss
def test_grad_mode_and_autocast_are_left_alone(name):
    loss, (embeddings, targets) = make(name).float(), batch("mixed", dtype=torch.float32)
    with torch.no_grad():
        assert not loss(embeddings, targets).requires_grad and not torch.is_grad_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(embeddings, targets)
    torch.testing.assert_close(inside, loss(embeddings, targets), rtol=0, atol=0)


@every_loss
def test_wrong_shapes_are_named(name):
    with pytest.raises(ValueError, match=r"\(5, 2, 4, 3\).*\(5, 3\)"):
        make(name)(torch.zeros(5, 2, 4, 3), torch.zeros(5, 3))


@every_loss
def test_it_says_what_it_is(name):
    assert "arXiv" in EMBEDDING_LOSSES[VARIANTS[name][0]].__doc__


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def cosine(a: Tensor, b: Tensor) -> float:
    return float(unit(a.detach()) @ unit(b.detach()))


def slow_label_contrastive(
    embeddings: Tensor, targets: Tensor, t: float, compat: bool, hard: int, bank: tuple[Tensor, Tensor] | None = None
) -> float:
    """Three loops, straight from the formula."""
    rows = [(i, v, k) for i in range(len(targets)) for v in range(embeddings.shape[1]) for k in range(K)]
    present = [row for row in rows if targets[row[0], row[2]] == 1]
    absent = [row for row in rows if targets[row[0], row[2]] == 0]
    z = {(i, v, k): embeddings[i, v, k] for i, v, k in rows}
    stored = [("bank", n, int(k)) for n, k in enumerate(bank[1])] if bank else []
    z |= {row: bank[0][row[1]] for row in stored}
    nearest = sorted(absent, key=lambda r: -max((cosine(z[r], z[a]) for a in present), default=0))[:hard]
    total, counted = 0.0, 0
    for i in present:
        others = [a for a in [*present, *stored] if a != i]
        positives = [p for p in others if p[2] == i[2]]
        counted += bool(positives) or compat
        denominator = sum(math.exp(cosine(z[i], z[a]) / t) for a in [*others, *nearest])
        for p in positives:
            total -= math.log(math.exp(cosine(z[i], z[p]) / t) / denominator) / len(positives)
    return total / max(counted, 1)


@pytest.mark.parametrize(("views", "compat", "hard"), [(1, False, 0), (2, False, 3), (2, True, 0), (1, True, 3)])
def test_label_contrastive_equals_three_loops(views, compat, hard):
    for case in CASES:
        embeddings, targets = batch(case, views)
        loss = LabelContrastiveLoss(temperature=0.3, compat=compat, hard_negatives=hard)
        expected = slow_label_contrastive(embeddings, targets, 0.3, compat, hard)
        assert loss(embeddings, targets).item() == pytest.approx(expected, abs=1e-12), case


@pytest.mark.parametrize("hard", [0, 3])
@pytest.mark.parametrize("case", CASES)
def test_label_contrastive_with_projector_and_bank_equals_three_loops(case, hard):
    embeddings, targets = batch(case)
    loss = make("label, projector, bank", temperature=0.3, hard_negatives=hard)
    rows, labels = (part[loss.bank.slots()[2]] for part in loss.bank.slots()[:2])
    assert labels.tolist() == [0, 0, 1, 1, 3, 3]  # two per class, and none of the class that was never confident
    expected = slow_label_contrastive(
        loss.projector(embeddings), targets, 0.3, False, hard, (loss.projector(rows.double()), labels)
    )
    assert loss(embeddings, targets).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_dual_is_both_parts_with_one_projector(case, views):
    embeddings, targets = batch(case, views)
    loss = make("dual, projector", label_weight=0.3, prototype_weight=0.7)
    rows, labels = (part[loss.bank.slots()[2]] for part in loss.bank.slots()[:2])
    unit, bank = loss.projector(embeddings), (loss.projector(rows), labels)
    first = slow_label_contrastive(unit, targets, 0.2, False, 0, bank)
    second = slow_prototype_contrastive(unit, targets, loss.projector(loss.prototypes), 0.07, "skip")
    terms = {name: term.item() for name, term in loss.terms(embeddings, targets).items()}
    assert terms == {
        "label_contrastive": pytest.approx(0.3 * first, abs=1e-12),
        "prototype_contrastive": pytest.approx(0.7 * second, abs=1e-12),
    }
    assert loss(embeddings, targets).item() == pytest.approx(sum(terms.values()))


def slow_prototype_contrastive(embeddings: Tensor, targets: Tensor, prototypes: Tensor, t: float, absent: str) -> float:
    total, positives = 0.0, 0
    for k in range(K):
        numerator = denominator = 0.0
        for i in range(len(targets)):
            for v in range(embeddings.shape[1]):
                score = math.exp(cosine(embeddings[i, v, k], prototypes[k]) / t)
                numerator += score if targets[i, k] == 1 else 0
                denominator += score if targets[i, k] >= 0 else 0
                positives += int(targets[i, k] == 1)
        if numerator:
            total -= math.log(numerator / denominator)
        elif absent == "push" and denominator:
            total += math.log(denominator)
    return total / max(positives, 1)


@pytest.mark.parametrize("absent", ["skip", "push"])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_prototype_contrastive_equals_three_loops(case, views, absent):
    embeddings, targets = batch(case, views)
    loss = make("PrototypeContrastiveLoss", temperature=0.3, absent=absent)
    expected = slow_prototype_contrastive(embeddings, targets, loss.prototypes.detach(), 0.3, absent)
    assert loss(embeddings, targets).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_running_means_equal_the_loops(case):
    """Each class's mean over its present entries, moved by a tenth; the first one taken whole."""
    embeddings, targets = batch(case)
    loss = PrototypeContrastiveLoss(K, D, prototypes="mean", momentum=0.9).double()
    expected = [None] * K
    for step in (embeddings, embeddings.flip(0) + 1):
        assert not list(loss.parameters())
        loss.update(step, targets, torch.zeros(step.shape[:3]))
        for k in range(K):
            rows = [step[i, v, k] for i in range(len(step)) for v in range(2) if targets[i, k] == 1]
            if rows:
                mean = sum(rows) / len(rows)
                expected[k] = mean if expected[k] is None else 0.9 * expected[k] + 0.1 * mean
        for k in range(K):
            assert loss.known[k] == (expected[k] is not None)
            torch.testing.assert_close(
                loss.prototypes[k], torch.zeros(D).double() if expected[k] is None else expected[k]
            )


def test_prototypes_start_where_something_is_known():
    loss, means = make("DualContrastiveLoss"), torch.full((K, D), 2.0)
    before = loss.prototypes.detach().clone()
    loss.start_from(means, torch.tensor([True, False, True, False]))
    assert (loss.prototypes[[0, 2]] == 2).all() and torch.equal(loss.prototypes[[1, 3]], before[[1, 3]])
    assert loss.prototypes.requires_grad


class WrongOrder(LabelContrastiveLoss):
    """The released SADCL mask: image-major labels over view-major rows (METHODS of the field, measured)."""

    def compute(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        mixed = embeddings.transpose(0, 1).reshape(embeddings.shape)  # rows no longer lie where their labels do
        return super().compute(mixed, targets)


def test_an_anchor_mask_in_the_wrong_order_fails_the_contract():
    EMBEDDING_LOSSES["WrongOrder"] = WrongOrder
    try:
        test_order_of_images_classes_and_views_does_not_matter("LabelContrastiveLoss")
        with pytest.raises(AssertionError):
            test_order_of_images_classes_and_views_does_not_matter("WrongOrder")
    finally:
        del EMBEDDING_LOSSES["WrongOrder"]


def test_defaults_are_the_papers():
    assert LabelContrastiveLoss().temperature == 0.2
    assert PrototypeContrastiveLoss(K, D).temperature == 0.07
    assert PrototypeContrastiveLoss(K, D).prototypes.shape == (K, D)


def slow_discriminative(embeddings: Tensor, targets: Tensor, form: str, scope: str, m: float, beta: float) -> float:
    views = range(embeddings.shape[1])
    rows = [(i, v, k) for i in range(len(targets)) for v in views for k in range(K) if targets[i, k] == 1]
    pulls, pushes = [], []
    for a in rows:
        for b in rows:
            if a == b:
                continue
            cos = cosine(embeddings[a], embeddings[b])
            distance = math.sqrt(max(0.0, 2 - 2 * cos))
            if a[2] == b[2]:
                pulls.append(distance**2 if form == "margin" else 1 - cos)
            elif scope == "batch" or a[0] == b[0]:
                pushes.append(max(0.0, m - distance) ** 2 if form == "margin" else max(0.0, cos - m))
    mean = lambda values: sum(values) / len(values) if values else 0.0  # noqa: E731
    return mean(pulls) + beta * mean(pushes)


@pytest.mark.parametrize("scope", ["image", "batch"])
@pytest.mark.parametrize(("form", "margin", "views"), [("margin", 1.2, 1), ("margin", 1.2, 2), ("cosine", -0.1, 2)])
def test_discriminative_equals_the_loops(views, form, margin, scope):
    loss = EMBEDDING_LOSSES["DiscriminativeLoss"](form=form, margin=margin, beta=0.7, scope=scope)
    for case in CASES:
        embeddings, targets = batch(case, views)
        expected = slow_discriminative(embeddings, targets, form, scope, margin, 0.7)
        assert loss(embeddings, targets).item() == pytest.approx(expected, abs=1e-12), case


HEAVY = ("lightning", "timm", "wandb", "torchvision", "torchmetrics", "jsonargparse", "PIL", "matplotlib", "sklearn")
ALONE = f"""
import sys
for name in {HEAVY}:
    sys.modules[name] = None  # as if it were not installed
import torch
from mlcl.losses import BinaryCrossEntropy, DualContrastiveLoss, LabelContrastiveLoss
assert LabelContrastiveLoss()(torch.randn(4, 3, 5), torch.ones(4, 3, dtype=torch.long)).isfinite()
assert DualContrastiveLoss(3, 5)(torch.randn(4, 3, 5), torch.ones(4, 3, dtype=torch.long)).isfinite()
assert not [name for name in sys.modules if name.startswith(("mlcl.data", "mlcl.module", "mlcl.network"))]
"""


def test_torch_alone_is_enough():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
