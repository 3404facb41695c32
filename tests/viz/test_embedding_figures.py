"""Figures that compare: what is drawn where, and what is left out."""

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection

from mlcl.analysis.embeddings import distances, entries
from mlcl.viz import class_distances, projections, veiled


def test_a_class_has_one_colour_in_all_panels():
    rng = np.random.default_rng(0)
    panels = {
        name: (rng.normal(size=(9, 2)), np.array(owners)) for name, owners in (("a", [0, 1, 2] * 3), ("b", [2] * 9))
    }
    figure = projections(panels, ["x", "y", "z"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    first, second = (
        next(c for c in axes.collections if isinstance(c, PathCollection)).get_facecolors() for axes in figure.axes
    )
    assert len(np.unique(first, axis=0)) == 3 and len(np.unique(second, axis=0)) == 1
    assert second[0].tolist() in first.tolist()
    assert {text.get_text() for text in figure.axes[1].texts} == {"z"}


@pytest.mark.parametrize("absent", [False, True])
def test_a_distance_that_is_not_there_has_no_mark(absent):
    """The last class is on no image."""
    table = distances(entries(torch.randn(4, 3, 5), [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]], absent=absent))
    figure = class_distances({"a": table, "b": table}, ["x", "y", "z"])
    for axes in figure.axes:
        marks = {line.get_label(): line.get_xdata() for line in axes.lines}
        assert len(marks) == 2 + absent and all(np.isnan(values[2]) for values in marks.values())
        np.testing.assert_array_equal(marks["same class"], table.intra)
        assert len(axes.collections[0].get_segments()) == 2
    figure.canvas.draw()


def test_the_veil_is_clear_at_the_highest_weight():
    image = torch.full((3, 6, 8), 200, dtype=torch.uint8)
    weights = np.zeros((3, 4), dtype=np.float32)
    weights[0, 0] = 1
    shown = veiled(image, weights)
    assert shown.shape == (6, 8, 3) and shown.dtype == np.uint8
    assert (shown[0, 0] == 200).all() and (shown[-1, -1] < 100).all()
    np.testing.assert_array_equal(veiled(image.permute(1, 2, 0).numpy(), weights), shown)
