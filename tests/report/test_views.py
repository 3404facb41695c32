"""What is gathered of a real run, whose names try to be markup, as tables and pictures for loggers."""

import numpy as np
import pytest
import torch
from support.hostile import RUN

from mlcl import analysis, inference
from mlcl.analysis.evaluation import Errors
from mlcl.heads import GlobalPool
from mlcl.inference import Model
from mlcl.network import Network
from mlcl.report import evidence
from mlcl.report.findings import gather
from mlcl.report.views import beside, views


@pytest.fixture(scope="module")
def found(hostile_run, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("anywhere"))  # the run knows where its data lies
        return gather(hostile_run / "runs" / RUN / "version_0")


@pytest.fixture(scope="module")
def shown(found):
    return views(found, images=8)


def test_errors_are_the_worst_ones_and_no_more_than_asked_for(found, shown):
    results = found.results
    for kind, wrong in (
        ("false_positives", results.predicted & (results.targets == 0)),
        ("false_negatives", ~results.predicted & (results.targets == 1)),
    ):
        pictures = shown.pictures.get(kind, [])
        assert len(pictures) == min(4, wrong.sum())
        distance = np.abs(results.probabilities - results.thresholds)
        if wrong.any():  # the most certain one of all comes first
            row, k = np.unravel_index(np.where(wrong, distance, -1).argmax(), wrong.shape)
            assert f"{100 * results.probabilities[row, k]:.0f} %" in pictures[0].caption
            assert pictures[0].caption.endswith(results.images[row])
    assert not {"false_positives", "false_negatives"} & {*views(found, images=0).pictures}


def test_the_table_has_every_class_the_worst_first(found, shown):
    aps = [row[1] for row in shown.tables["per_class"].rows]
    assert len(aps) == 4
    assert aps == sorted(aps)
    assert aps == pytest.approx(sorted(100 * found.results.class_ap), abs=1e-3)


def test_the_curves_end_where_everything_is_found(shown):
    ends = {}
    for name, recall, precision in shown.curves.rows:
        ends[name] = recall
        assert 0 <= precision <= 1
    assert set(ends.values()) == {1.0}


def test_embeddings_belong_to_classes_that_are_present(found, shown):
    assert len(shown.embeddings) == len(shown.owners) == (found.results.targets == 1).sum()
    assert shown.embeddings.shape[1] == 32


def test_reliability_before_and_after_calibration(found):
    before, after = found.reliability.values()
    assert [*found.reliability] == [1.0, 1.5]
    plain = torch.from_numpy(found.results.logits).double().sigmoid().numpy()
    assert before.error == pytest.approx(analysis.reliability(plain, found.results.targets).error, abs=1e-9)
    assert after.error != before.error


def test_where_the_attention_is_low_is_dark():
    pixels = np.full((60, 120, 3), 200, np.uint8)
    weights = np.zeros((4, 4), np.float32)
    weights[:, 3] = 1
    pair = beside(pixels, weights)
    assert pair.shape == (320, 640, 3)
    plain, veiled = pair[80:240, :320].astype(int), pair[80:240, 320:].astype(int)
    assert np.abs(plain - 200).max() <= 1
    assert (veiled[:, 300:] > 180).all()
    assert (veiled[:, :100] < 110).all()
    assert (pair[:70] == 255).all()
    assert beside(pixels, None).shape == (320, 320, 3)


@pytest.mark.parametrize(("most", "hard", "total"), [(100, 10, 50), (8, 4, 8), (1, 0, 1), (0, 0, 0)])
def test_the_choice_keeps_to_its_limit(most, hard, total):
    errors = [Errors([0, 1, 2], [3, 4, 5]), Errors([6, 0], [7, 8, 9])]
    found, drawn = evidence.choose(errors, 50, most)
    assert len(found) == hard
    assert found[:4] == [0, 6, 3, 7][: min(4, hard)]  # every class's worst comes first
    assert len({*found, *drawn}) == total
    assert len(drawn) == len(set(drawn))


def test_a_head_with_one_embedding_for_all(found, monkeypatch, tmp_path):
    classes = found.results.classes
    network = Network("test_resnet", GlobalPool(), 4).eval()
    model = Model(network, classes, [0.5] * 4, 1.0, 48, "bilinear", tmp_path)
    monkeypatch.setattr(inference, "load", lambda *_, **__: model)
    pooled = gather(found.results.folder, max_images=12)
    assert 8 < pooled.evidence.passed <= 12  # images of several kinds of interest pass once
    assert pooled.evidence.embeddings.shared and not found.evidence.embeddings.shared
    assert not pooled.evidence.attention and found.evidence.attention
    assert pooled.evidence.notes == ["no attention maps: the head of this network has none"]
