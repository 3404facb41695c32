"""Average precision and the F1 family against scikit-learn, naive loops and hand-made cases."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from mlcl.metrics import MultiLabelMetrics, average_precision, f1_family, top_k

LABELS = Path(__file__).resolve().parents[2] / "shared" / "data" / "labels"
needs_labels = pytest.mark.skipif(not LABELS.is_dir(), reason="the full label matrices are not here")


def naive_ap(scores, targets, interpolation):
    """One class, by the definition: walk down the distinct scores."""
    known = [(s, t) for s, t in zip(scores, targets, strict=True) if t >= 0]
    positives = sum(t for _, t in known)
    if not positives:
        return math.nan
    points = []  # (recall numerator, precision) after each distinct score
    for level in sorted({s for s, _ in known}, reverse=True):
        above = [t for s, t in known if s >= level]
        points.append((sum(above), sum(above) / len(above)))
    best_from = [max(p for _, p in points[i:]) for i in range(len(points))]
    if interpolation == "11point":
        tenths = [max([b for (f, _), b in zip(points, best_from, strict=True) if 10 * f >= i * positives], default=0)
                  for i in range(11)]  # fmt: skip
        return sum(tenths) / 11
    total, before = 0.0, 0
    for (found, precision), best in zip(points, best_from, strict=True):
        total += (found - before) * (best if interpolation == "envelope" else precision)
        before = found
    return total / positives


def naive_f1(predicted, targets, cf1):
    n, k = targets.shape
    per_class, tp_all, claimed_all, present_all = [], 0, 0, 0
    for c in range(k):
        tp = claimed = present = 0
        for i in range(n):
            if targets[i, c] < 0:
                continue
            tp += bool(predicted[i, c] and targets[i, c] == 1)
            claimed += bool(predicted[i, c])
            present += int(targets[i, c] == 1)
        tp_all, claimed_all, present_all = tp_all + tp, claimed_all + claimed, present_all + present
        if present:
            p, r = tp / claimed if claimed else 0.0, tp / present
            per_class.append((p, r, 2 * p * r / (p + r) if p + r else 0.0))
    cp, cr, mean_f1 = (sum(column) / len(per_class) for column in zip(*per_class, strict=True))
    op, orr = tp_all / claimed_all if claimed_all else 0.0, tp_all / present_all
    harmonic = lambda a, b: 2 * a * b / (a + b) if a + b else 0.0  # noqa: E731
    return {"CP": cp, "CR": cr, "CF1": harmonic(cp, cr) if cf1 == "harmonic" else mean_f1,
            "OP": op, "OR": orr, "OF1": harmonic(op, orr)}  # fmt: skip


@st.composite
def scored(draw):
    n, k = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    scores = draw(st.lists(st.lists(st.integers(-3, 3), min_size=k, max_size=k), min_size=n, max_size=n))
    targets = draw(st.lists(st.lists(st.integers(-1, 1), min_size=k, max_size=k), min_size=n, max_size=n))
    return torch.tensor(scores).double(), torch.tensor(targets)


@pytest.mark.parametrize("interpolation", ["none", "envelope", "11point"])
@given(case=scored())
@settings(max_examples=60, deadline=None)
def test_ap_equals_the_definition(case, interpolation):
    scores, targets = case
    found = average_precision(scores, targets, interpolation)
    expected = [naive_ap(scores[:, c].tolist(), targets[:, c].tolist(), interpolation) for c in range(scores.shape[1])]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


@given(case=scored(), order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_ap_does_not_depend_on_the_order_of_images(case, order):
    scores, targets = case
    rows = list(range(len(scores)))
    order.shuffle(rows)
    torch.testing.assert_close(
        average_precision(scores[rows], targets[rows]),
        average_precision(scores, targets),
        rtol=0,
        atol=0,
        equal_nan=True,
    )


@pytest.mark.parametrize("cf1", ["harmonic", "mean"])
@given(case=scored(), threshold=st.sampled_from([0.2, 0.5, 0.7]))
@settings(max_examples=40, deadline=None)
def test_f1_equals_the_definition(case, threshold, cf1):
    scores, targets = case
    targets[0, 0] = 1
    predicted = scores.sigmoid() >= threshold
    for name, expected in naive_f1(predicted, targets, cf1).items():
        assert f1_family(predicted, targets, cf1)[name].item() == pytest.approx(expected, abs=1e-12), name


def test_eleven_points_are_exact_where_floats_are_not():
    scores = torch.arange(20, 0, -1.0)[:, None]
    targets = torch.zeros(20, 1, dtype=torch.long)
    targets[[0, 1, 2, 9, 10, 11, 12, 13, 14, 19]] = 1  # recall 3/10 is reached with precision 1
    assert average_precision(scores, targets, "11point").item() == pytest.approx(
        naive_ap(scores[:, 0].tolist(), targets[:, 0].tolist(), "11point"), abs=1e-15
    )


def test_ap_edge_cases():
    nan = average_precision(torch.zeros(3, 2), torch.tensor([[0, -1]] * 3))
    assert nan.isnan().all() and nan.dtype == torch.float64
    assert average_precision(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.long)).isnan().all()
    assert average_precision(torch.zeros(4, 1), torch.tensor([[1], [0], [0], [0]])).item() == 0.25  # all tied
    assert average_precision(torch.tensor([[1.0], [2.0]]).bfloat16(), torch.tensor([[1], [0]])).item() == 0.5
    with pytest.raises(ValueError, match="NaN"):
        average_precision(torch.tensor([[math.nan]]), torch.tensor([[1]]))
    with pytest.raises(ValueError, match="must both be"):
        average_precision(torch.zeros(3, 2), torch.zeros(3, 3))
    for numbers in ([[0, 2], [1, -1]], [[0.0, 0.7], [1.0, 0.0]], [[1, -2], [0, 0]]):  # class numbers, shares, PASCAL's
        with pytest.raises(ValueError, match="multi-hot"):
            average_precision(torch.zeros(2, 2), torch.tensor(numbers))
    with pytest.raises(ValueError, match="envelope"):
        average_precision(torch.zeros(3, 2), torch.zeros(3, 2), "voc")  # type: ignore[arg-type]


def test_top_three_are_chosen_among_the_known_ones():
    scores, targets = (
        torch.tensor([[5.0, 4, 3, 2, 1], [1, 1, 1, 1, 1]]),
        torch.tensor([[-1, 0, 1, 1, 1], [0, 0, 0, 0, 1]]),
    )
    assert top_k(scores, targets, 3).tolist() == [[False, True, True, True, False], [True, True, True, False, False]]
    assert top_k(scores[:, :2], targets[:, :2], 3).tolist() == [[False, True], [True, True]]


def test_metric_equals_its_parts_and_drops_duplicates():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 6, generator=generator), torch.randint(-1, 2, (50, 6), generator=generator)
    metrics = MultiLabelMetrics(6)
    rows = torch.cat([torch.randperm(50, generator=generator), torch.tensor([3, 3, 7])])
    for part in rows.split(8):
        metrics.update(logits[part], targets[part], part)
    values = metrics.compute()
    assert metrics.evaluation.index.tolist() == list(range(50))
    assert values["mAP"] == average_precision(logits, targets).nanmean()
    predicted = logits.double().sigmoid() >= 0.5
    for name, value in f1_family(predicted, targets).items():
        assert values[name] == value
    for name, value in f1_family(predicted & top_k(logits, targets, 3), targets).items():
        assert values[f"{name}_top3"] == value
    assert set(values) == {"mAP"} | {f"{n}{t}" for n in ("CP", "CR", "CF1", "OP", "OR", "OF1") for t in ("", "_top3")}


def test_metric_without_index_keeps_every_row():
    metrics = MultiLabelMetrics(2)
    metrics.update(torch.zeros(3, 2), torch.ones(3, 2))
    metrics.update(torch.zeros(3, 2), torch.ones(3, 2))
    metrics.compute()
    assert len(metrics.evaluation.logits) == 6
    metrics.reset()
    metrics.update(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.long), torch.tensor([0]))
    assert metrics.compute()["mAP"].isnan()
    with pytest.raises(ValueError, match=r"\(B, 2\)"):
        metrics.update(torch.zeros(3, 3), torch.zeros(3, 3))


def test_half_precision_logits_are_not_turned_into_tied_probabilities():
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(400, 1, generator=generator) < 0.3).long()
    logits = (8 + 3 * torch.randn(400, 1, generator=generator) + 2 * targets).half()  # sigmoid is 1 in fp16 for most
    metrics = MultiLabelMetrics(1)
    metrics.update(logits, targets)
    assert metrics.compute()["mAP"] == average_precision(logits, targets)[0]
    tied = average_precision(logits.sigmoid(), targets)[0]
    assert abs(metrics.compute()["mAP"] - tied) > 0.02


@needs_labels
@pytest.mark.parametrize("file", ["coco2014_val_labels.npz", "voc2007_labels.npz", "voc2012_labels.npz"])
def test_full_label_matrices_against_scikit_learn(file):
    labels = np.load(LABELS / file)["labels"]
    if "voc" in file:  # PASCAL's flags: 1, 0 difficult, -1 absent
        labels = np.where(labels == 1, 1, np.where(labels == 0, -1, 0))
    targets = torch.from_numpy(labels.astype(np.int8))
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(targets.shape, dtype=torch.float64, generator=generator) + 1.5 * targets
    found = average_precision(scores, targets)
    for c in range(targets.shape[1]):
        known = labels[:, c] >= 0
        expected = average_precision_score(labels[known, c], scores[known, c].numpy())
        assert abs(found[c].item() - expected) < 1e-9
    predicted = scores.sigmoid() >= 0.5
    rows = slice(None, None, 40)  # the naive loop is slow
    for name, expected in naive_f1(predicted[rows].numpy(), labels[rows], "harmonic").items():
        assert f1_family(predicted[rows], targets[rows])[name].item() == pytest.approx(expected, abs=1e-12)


# --- Classes of which nothing is known to be absent


@pytest.mark.parametrize("constant", [[1, 1, 1, 1], [1, -1, 1, -1], [-1, -1, -1, -1]])
def test_a_class_of_which_nothing_is_known_to_be_absent_has_no_ap(constant):
    """It would be 1, whatever the network says."""
    logits = torch.tensor([[0.1, 3.0], [0.4, 1.0], [0.3, 2.0], [0.2, 0.5]])
    targets = torch.tensor([constant, [1, 0, 0, 1]]).T
    metrics = MultiLabelMetrics(2)
    metrics.update(logits, targets)
    values = metrics.compute()
    assert metrics.evaluation.class_ap.isnan().tolist() == [True, False]
    assert values["mAP"] == metrics.evaluation.class_ap[1] < 1


def test_where_no_class_has_an_ap_there_is_no_map():
    metrics = MultiLabelMetrics(1)
    metrics.update(torch.ones(3, 1), torch.ones(3, 1, dtype=torch.int8))
    assert metrics.compute()["mAP"].isnan()
