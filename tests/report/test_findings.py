"""What is gathered of a real run's results, whose names try to be markup."""

import numpy as np
import pytest
from support.hostile import RUN

from mlcl.report.findings import beside, gather
from mlcl.report.results import read


@pytest.fixture(scope="module")
def folder(hostile_run):
    return hostile_run / "runs" / RUN / "version_0"


@pytest.fixture(scope="module")
def found(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parents[len(folder.parents) - 2])  # anywhere: the run knows where its data lies
        return gather(folder, images=8)


def test_errors_are_the_worst_ones_and_no_more_than_asked_for(found, folder):
    results = read(folder)
    for kind, wrong in (
        ("false_positives", results.predicted & (results.targets == 0)),
        ("false_negatives", ~results.predicted & (results.targets == 1)),
    ):
        shown = found.pictures.get(kind, [])
        assert len(shown) == min(4, wrong.sum())
        distance = np.abs(results.probabilities - results.thresholds)
        if wrong.any():  # the surest mistake of all comes first
            row, k = np.unravel_index(np.where(wrong, distance, -1).argmax(), wrong.shape)
            assert f"{100 * results.probabilities[row, k]:.0f} %" in shown[0].caption
            assert shown[0].caption.endswith(results.images[row])


def test_no_picture_leaves_where_none_is_wanted(folder):
    assert not {"false_positives", "false_negatives"} & {*gather(folder, images=0).pictures}


def test_the_table_has_every_class_the_worst_first(found, folder):
    results = read(folder)
    aps = [row[1] for row in found.tables["per_class"].rows]
    assert len(aps) == len(results.classes)
    assert aps == sorted(aps)
    assert aps == pytest.approx(sorted(100 * results.class_ap), abs=1e-3)


def test_the_curves_end_where_everything_is_found(found):
    ends = {}
    for name, recall, precision in found.curves.rows:
        ends[name] = recall
        assert 0 <= precision <= 1
    assert set(ends.values()) == {1.0}


def test_embeddings_belong_to_classes_that_are_present(found, folder):
    assert len(found.embeddings) == len(found.owners) == (read(folder).targets == 1).sum()


def test_every_text_can_be_stored(found):
    for table in found.tables.values():
        for row in table.rows:
            assert all(not isinstance(cell, str) or cell.encode("utf-8").decode() == cell for cell in row)
            assert not any(isinstance(cell, str) and "\x00" in cell for cell in row)


def test_without_pictures_the_rest_is_shown_and_one_line_says_why(folder, tmp_path):
    found = gather(folder, data_root=str(tmp_path))
    assert "images are not there" in found.notes[0]
    assert {*found.tables} == {"metrics", "per_class"}
    assert {*found.pictures} == {"reliability", "co_occurrence"}


def test_where_the_class_looked_is_clear_and_the_rest_veiled():
    pixels = np.full((60, 120, 3), 200, np.uint8)
    weights = np.zeros((4, 4), np.float32)
    weights[:, 3] = 1
    shown = beside(pixels, weights)
    assert shown.shape == (320, 640, 3)
    plain, veiled = shown[80:240, :320].astype(int), shown[80:240, 320:].astype(int)
    assert np.abs(plain - 200).max() <= 1
    assert (veiled[:, 300:] > 180).all()
    assert (veiled[:, :100] < 110).all()
    assert (shown[:70] == 255).all()
    assert beside(pixels, None).shape == (320, 320, 3)
