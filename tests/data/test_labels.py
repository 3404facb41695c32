import numpy as np
import pytest

import mlcl.data.labels
from mlcl.data.labels import counted, describe, encode, from_voc, measurable
from mlcl.errors import MlclError


@pytest.mark.parametrize(("difficult", "expected"), [("ignore", [1, -1, 0]), ("negative", [1, 0, 0])])
def test_voc_flags_become_the_target_code(difficult, expected):
    targets = from_voc(np.array([[1, 0, -1], [-1, -1, -1]]), difficult)
    assert targets.dtype == np.int8
    assert targets.tolist() == [expected, [0, 0, 0]]


def test_voc_flags_keep_their_shape_even_when_empty():
    assert from_voc(np.zeros((0, 20), dtype=np.int64), "ignore").shape == (0, 20)


def test_another_voc_flag_is_named():
    with pytest.raises(MlclError, match=r"1, 0 or -1, found .*\b2\b") as error:
        from_voc(np.array([1, 0, 2]), "ignore")
    assert "\n" not in str(error.value)


def test_encode_makes_a_row_per_image():
    targets = encode([{2, 0}, set(), [1, 1]], 3)
    assert targets.dtype == np.int8
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_encode_nothing():
    assert encode([], 5).shape == (0, 5)


def test_encode_refuses_a_class_out_of_range():
    with pytest.raises(IndexError):
        encode([{3}], 3)


def test_describe_counts():
    targets = np.array([[1, 0, -1], [1, 1, 0], [0, 0, 0], [-1, 0, 0]], dtype=np.int8)
    text = describe(targets, ("cat", "dog", "emu"))
    assert text == "4 images, 0.75 labels per image, 2 without a label, 2 unknown entries, no positive for emu"


def test_describe_says_nothing_of_what_is_in_order():
    targets = np.tile(np.eye(2, dtype=np.int8), (600, 1))
    assert describe(targets, ("cat", "dog")) == "1,200 images, 1.00 labels per image"


def test_describe_names_eight_absent_classes_at_most():
    text = describe(np.zeros((1, 11), dtype=np.int8), tuple("abcdefghijk"))
    assert text.endswith("no positive for a, b, c, d, e, f, g, h and 3 more")


def test_describe_an_empty_split():
    assert describe(np.zeros((0, 2), dtype=np.int8), ("a", "b")).startswith("0 images, 0.00 labels per image")


def test_a_class_is_measurable_with_a_positive_and_a_known_negative():
    targets = np.array([[1, 1, 0, -1, 1, -1], [0, 1, 0, -1, -1, 0]], dtype=np.int8)
    assert measurable(targets).tolist() == [True, False, False, False, False, False]
    assert measurable(targets[:0]).tolist() == [False] * 6
    assert measurable(targets).dtype == bool


def test_counting_a_part_at_a_time_counts_all(monkeypatch):
    targets = np.random.default_rng(0).integers(-1, 2, (103, 5)).astype(np.int8)
    targets[7] = 0
    monkeypatch.setattr(mlcl.data.labels, "_AT_ONCE", 50)  # ten rows
    found = counted(targets)
    assert found.present.tolist() == [int((column == 1).sum()) for column in targets.T]
    assert found.absent.tolist() == [int((column == 0).sum()) for column in targets.T]
    assert found.empty == sum(1 not in row for row in targets.tolist()) > 0
