"""The losses on whole images, against slow loops straight from their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlcl.heads import GlobalPool
from mlcl.losses import JaccardSupConLoss, MulSupConLoss
from mlcl.losses._image_level import image_views

B, K, D, T = 6, 4, 3, 0.3
TARGETS = {
    "all known": [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]],
    "some unknown": [[1, 0, 1, -1], [1, 1, 0, -1], [0, 0, -1, 0], [-1, 1, 1, 0], [-1, -1, 1, -1], [0, -1, 0, 1]],
    "an image of which nothing is known": [[1, 0, 1, 0], [-1, -1, -1, -1], [1, 0, 0, 0], [0, -1, 1, 0]],
    "nothing known": [[-1, -1, -1, -1]] * 3,
    "no label": [[0, 0, 0, 0]] * 3,
    "no shared label": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    "one image": [[1, 1, 0, -1]],
    "nothing known in both": [[1, 1, -1, -1], [-1, -1, 1, 1], [1, -1, -1, -1]],
}
every_case = pytest.mark.parametrize("case", TARGETS)
every_number_of_views = pytest.mark.parametrize("views", [1, 2])


def _name(loss: object) -> str:
    return type(loss).__name__


def batch(case: str, views: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(case))
    targets = torch.tensor(TARGETS[case])
    return torch.randn(len(targets), views, K, D, generator=generator, dtype=torch.float64), targets


def slow_views(embeddings: Tensor, targets: Tensor) -> tuple[list[Tensor], list[list[int]]]:
    """Unit vectors and label rows of the image views that take part."""
    vectors, labels = [], []
    for image, row in enumerate(targets.tolist()):
        known = [k for k in range(K) if row[k] >= 0]
        for view in range(embeddings.shape[1]) if known else ():
            mean = sum(embeddings[image, view, k] for k in known) / len(known)
            vectors.append(mean / math.sqrt(float(mean @ mean)))
            labels.append(row)
    return vectors, labels


def slow_log_share(z: list[Tensor], i: int, p: int) -> float:
    total = sum(math.exp(float(z[i] @ z[a]) / T) for a in range(len(z)) if a != i)
    return math.log(math.exp(float(z[i] @ z[p]) / T) / total)


def slow_mulsupcon(embeddings: Tensor, targets: Tensor, weights: str) -> float:
    z, y = slow_views(embeddings, targets)
    terms: dict[int, list[float]] = {}  # anchor to its labels' terms
    for i in range(len(z)):
        for j in range(K):
            positives = [p for p in range(len(z)) if p != i and y[i][j] == y[p][j] == 1]
            if positives:
                mean = sum(slow_log_share(z, i, p) for p in positives) / len(positives)
                terms.setdefault(i, []).append(-mean)
    if not terms:
        return 0.0
    if weights == "label":
        return sum(sum(row) for row in terms.values()) / sum(len(row) for row in terms.values())
    return sum(sum(row) / len(row) for row in terms.values()) / len(terms)


def slow_jaccard(embeddings: Tensor, targets: Tensor, threshold: float) -> float:
    z, y = slow_views(embeddings, targets)
    anchors = []
    for i in range(len(z)):
        weight = {}
        for p in range(len(z)):
            known = [j for j in range(K) if y[i][j] >= 0 and y[p][j] >= 0]
            either = sum(y[i][j] == 1 or y[p][j] == 1 for j in known)
            both = sum(y[i][j] == 1 and y[p][j] == 1 for j in known)
            if p != i and both and both / either > threshold:
                weight[p] = both / either
        if weight:
            anchors.append(-sum(w * slow_log_share(z, i, p) for p, w in weight.items()) / sum(weight.values()))
    return sum(anchors) / len(anchors) if anchors else 0.0


@pytest.mark.parametrize("weights", ["label", "image"])
@every_number_of_views
@every_case
def test_mulsupcon_equals_the_loops(case, views, weights):
    embeddings, targets = batch(case, views)
    value = MulSupConLoss(T, weights)(embeddings, targets)
    assert value.item() == pytest.approx(slow_mulsupcon(embeddings, targets, weights), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.5, 0.9])
@every_number_of_views
@every_case
def test_jaccard_equals_the_loops(case, views, threshold):
    embeddings, targets = batch(case, views)
    value = JaccardSupConLoss(T, threshold)(embeddings, targets)
    assert value.item() == pytest.approx(slow_jaccard(embeddings, targets, threshold), abs=1e-12)


def test_the_cases_tell_the_settings_apart():
    """Or the equalities above would say little."""
    embeddings, targets = batch("all known", 1)
    assert slow_mulsupcon(embeddings, targets, "label") != slow_mulsupcon(embeddings, targets, "image")
    assert len({slow_jaccard(embeddings, targets, threshold) for threshold in (0.0, 0.4, 0.9)}) == 3
    assert slow_jaccard(embeddings, targets, 0.4) != slow_jaccard(embeddings, targets, 0.5)  # J = 1/2 is in them


def losses() -> list[MulSupConLoss | JaccardSupConLoss]:
    return [MulSupConLoss(T), MulSupConLoss(T, "image"), JaccardSupConLoss(T), JaccardSupConLoss(T, 0.5)]


@pytest.mark.parametrize("loss", losses(), ids=_name)
@pytest.mark.parametrize(("case", "views"), [("nothing known", 2), ("no label", 2), ("no shared label", 1)])
def test_nothing_to_compare_is_zero_with_zero_gradient(loss, case, views):
    embeddings, targets = batch(case, views)
    value = loss(embeddings.requires_grad_(), targets)
    value.backward()
    assert value == 0 and embeddings.grad.abs().max() == 0


@pytest.mark.parametrize("loss", [MulSupConLoss(T), JaccardSupConLoss(T, 0.4)], ids=_name)
@pytest.mark.parametrize(("case", "views"), [("all known", 1), *((case, 2) for case in TARGETS)])
def test_gradient_is_that_of_the_value(loss, case, views):
    embeddings, targets = batch(case, views)
    assert torch.autograd.gradcheck(lambda e: loss(e, targets), embeddings.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("loss", losses(), ids=_name)
def test_an_image_of_which_nothing_is_known_is_not_even_a_key(loss):
    embeddings, targets = batch("an image of which nothing is known", 2)
    rest = [0, 2, 3]
    torch.testing.assert_close(loss(embeddings, targets), loss(embeddings[rest], targets[rest]))


@pytest.mark.parametrize("loss", [MulSupConLoss(T), MulSupConLoss(T, "image"), JaccardSupConLoss(T)], ids=_name)
def test_one_label_per_image_is_plain_supervised_contrastive(loss):
    """Khosla et al., L_out: for every anchor the mean over its positives, then the mean over anchors."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([0, 1, 0, 2, 1, 0, 2])
    features = torch.randn(len(classes), D, generator=generator, dtype=torch.float64)
    similarity = F.normalize(features, dim=1) @ F.normalize(features, dim=1).T / T
    total = 0.0
    for i in range(len(classes)):
        others = [a for a in range(len(classes)) if a != i]
        positives = [p for p in others if classes[p] == classes[i]]
        total += similarity[i, others].exp().sum().log() - similarity[i, positives].mean()
    embeddings = features[:, None].expand(-1, K, -1)
    value = loss(embeddings, F.one_hot(classes, K))
    torch.testing.assert_close(value, total / len(classes), rtol=0, atol=1e-12)


def test_with_global_pool_the_image_vector_is_the_pooled_feature():
    """So what is not known of an image hides nothing of its vector."""
    features, targets = torch.randn(B, D, 3, 3), torch.tensor(TARGETS["some unknown"])
    vectors, _ = image_views(GlobalPool().build(D, K)(features).embeddings[:, None], targets)
    torch.testing.assert_close(vectors, features.mean((2, 3)))


@pytest.mark.parametrize("kind", [MulSupConLoss, JaccardSupConLoss])
def test_the_projector_is_used_and_trained(kind):
    torch.manual_seed(0)
    loss = kind(T, projection=5, dim=D).double()
    embeddings, targets = batch("some unknown", 2)
    value = loss(embeddings, targets)
    vectors = torch.stack(slow_means(embeddings, targets))
    projected = loss.projector(vectors).view(len(targets), 2, 1, 5).expand(-1, -1, K, -1)
    torch.testing.assert_close(value, kind(T)(projected, targets))
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())


def slow_means(embeddings: Tensor, targets: Tensor) -> list[Tensor]:
    return [image[view, row >= 0].mean(0) for image, row in zip(embeddings, targets, strict=True) for view in range(2)]


@pytest.mark.parametrize("kind", [MulSupConLoss, JaccardSupConLoss])
def test_a_projector_without_parameters_in_use_still_has_gradients(kind):
    loss = kind(T, projection=5, dim=D).double()
    embeddings, targets = batch("nothing known", 2)
    loss(embeddings.requires_grad_(), targets).backward()
    assert all((parameter.grad == 0).all() for parameter in loss.parameters())


@pytest.mark.parametrize("kind", [MulSupConLoss, JaccardSupConLoss])
def test_settings_that_cannot_be_are_named(kind):
    for wrong in ({"temperature": 0.0}, {"projection": 8}, {"projection": -1, "dim": 4}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            kind(**wrong)
    with pytest.raises(ValueError, match="weights must be"):
        MulSupConLoss(weights="both")
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="threshold must be"):
            JaccardSupConLoss(threshold=threshold)
    assert not list(kind(dim=D).parameters())  # the command line gives dim in any case
