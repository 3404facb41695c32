"""Figures: what is drawn is what was given; nobody's settings are touched."""

import re
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from mlcl import analysis, viz
from mlcl.analysis.embeddings import distances, entries
from mlcl.analysis.evaluation import PRCurve
from mlcl.viz import pages, style

RNG = np.random.default_rng(0)
PROBABILITIES = RNG.random((60, 3))
TARGETS = (PROBABILITIES + RNG.normal(0, 0.4, (60, 3)) > 0.7).astype(int)
CURVE = analysis.pr_curve(PROBABILITIES[:, 0], TARGETS[:, 0], 0.5)
NAMES = ["_cat", "$dog$", "<b>"]

FIGURES = {
    "pr_curve": lambda: viz.pr_curve(CURVE, 0.3, "cat: AP 50"),
    "reliability": lambda: viz.reliability({"temperature 1": analysis.reliability(PROBABILITIES, TARGETS)}),
    "cooccurrence": lambda: viz.cooccurrence([[np.nan, 0.2, -0.1]] * 3, NAMES),
    "lines": lambda: viz.lines({"_loss": ([1, 2], [3.0, 2.0]), "val": ([2], [1.0])}, "epoch", "loss", "Losses"),
    "embedding_scatter": lambda: viz.embedding_scatter(RNG.random((20, 2)), np.arange(20) % 2 * 2, NAMES),
    "cooccurrence_share": lambda: viz.cooccurrence_share([[1, 0.2, 0.1]] * 3, NAMES),
    "bars": lambda: viz.bars([1, np.nan, 2], NAMES, "images", "Bars", marks=[1, 1, 1], marks_label="guessing"),
    "pictures": lambda: viz.pictures([np.zeros((30, 40, 3), np.uint8)] * 3, NAMES, columns=2),
    "projections": lambda: viz.projections({"a": (RNG.random((9, 2)), [0, 1, 2] * 3)}, NAMES),
    "class_distances": lambda: viz.class_distances({"a": distances(entries(torch.randn(4, 3, 5), TARGETS[:4]))}, NAMES),
}


@pytest.mark.parametrize("name", FIGURES)
def test_each_is_a_figure_that_fits_on_a_page_and_leaves_the_settings(name):
    with mpl.rc_context({"font.size": 31, "text.color": "red"}):
        before = dict(mpl.rcParams)
        figure = FIGURES[name]()
        assert dict(mpl.rcParams) == before
    assert type(figure) is Figure  # what W&B takes for a figure
    text = pages.svg(figure, "alt")
    assert "red" not in text.replace("predicted", "")
    assert "#ff0000" not in text
    assert "#ffffff" not in text  # a white ground would shine in the dark


def test_the_curve_and_its_point():
    axes = viz.pr_curve(CURVE, 0.3).axes[0]
    curve, guess, point = axes.lines
    np.testing.assert_array_equal(curve.get_xdata(), CURVE.recall)
    np.testing.assert_array_equal(curve.get_ydata(), CURVE.precision)
    assert guess.get_ydata() == [0.3, 0.3]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == CURVE.point


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    recall = np.linspace(0, 1, 5000)
    shown = viz.pr_curve(PRCurve(1 - recall, recall, 1 - recall / 2, None), 0.1).axes[0].lines[0]
    assert len(shown.get_xdata()) == 400
    assert shown.get_xdata()[[0, -1]].tolist() == [0, 1]


def test_groups_of_the_scatter_carry_their_class():
    text = pages.svg(FIGURES["embedding_scatter"](), "alt")
    shown = [gid for gid in ("class-0", "label-0", "class-1", "class-2") if f'data-gid="{gid}"' in text]
    assert shown == ["class-0", "label-0", "class-2"]
    assert ">_cat</text>" in text  # matplotlib takes a leading underscore for "no legend"


def test_names_of_groups_do_not_cover_each_other():
    points = [[0, 0], [1, 1], *[[0.5, 0.5]] * 6]  # six classes at one place
    axes = viz.embedding_scatter(points, [6, 6, *range(6)], [f"class {k}" for k in range(7)]).axes[0]
    heights = sorted(text.xyann[1] for text in axes.texts[:6])
    assert min(np.diff(heights)) >= 12


def test_colours_read_on_light_and_on_dark():
    def luminance(colour):
        linear = [((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colour in style.class_colours(80):
        assert 1.05 / (luminance(colour) + 0.05) > 2.3
        assert (luminance(colour) + 0.05) / 0.058 > 3


def test_an_overlay_is_clear_where_the_attention_is_highest():
    layer = viz.overlay([[0.8, 0.4], [0.0, 0.8]])
    assert layer.dtype == np.uint8
    assert layer[..., 3].tolist() == [[0, 82], [165, 0]]
    assert not viz.overlay(np.full((3, 3), 1 / 9))[..., 3].any()
    assert viz.overlay(np.zeros((2, 2)))[..., 3].tolist() == [[165, 165]] * 2


def test_a_notebook_shows_a_figure_without_pyplot(monkeypatch):
    import IPython
    from IPython.core.formatters import DisplayFormatter

    formatter = DisplayFormatter()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(display_formatter=formatter))
    assert "image/png" not in formatter.format(FIGURES["bars"]())[0]
    style.show_in_notebooks()
    data, metadata = formatter.format(FIGURES["bars"]())
    assert data["image/png"].startswith(b"\x89PNG") and metadata["image/png"]["width"] > 100
    own = formatter.formatters["image/png"]
    own.for_type(Figure, lambda figure: b"of pyplot")
    style.show_in_notebooks()  # what the notebook's own pyplot has set stays
    assert formatter.format(FIGURES["bars"]())[0]["image/png"] == b"of pyplot"


def test_bars_are_sorted_and_what_is_not_defined_comes_last():
    axes = viz.bars([1, np.nan, 3000], ["a", "b", "c"], "images", marks=[5, 6, 7]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a", "b"]
    assert [text.get_text() for text in axes.texts] == ["3,000", "1", "none"]
    assert [path[0, 0] for path in axes.collections[0].get_segments()] == [7, 5, 6]
    unsorted = viz.bars([1, 3, 2], ["0", "1", "2"], "images", sort=False).axes[0]
    assert [label.get_text() for label in unsorted.get_yticklabels()] == ["0", "1", "2"]
    low, high = axes.get_ylim()
    assert low > high  # the first one is on top


def test_bars_of_many_classes_stand_in_panels_with_one_scale():
    figure = viz.bars(range(85), [f"class {k}" for k in range(85)], "images")
    counts = [len(axes.patches) for axes in figure.axes]
    assert counts == [29, 29, 27]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert figure.get_figheight() < 12


def test_bars_ask_for_one_value_per_class():
    for values, names in (([1, 2], ["a"]), ([], [])):
        with pytest.raises(ValueError, match="one for each"):
            viz.bars(values, names, "images")


def test_pictures_take_what_datasets_and_files_give():
    tensor = torch.randint(0, 256, (3, 8, 6), dtype=torch.uint8)
    figure = viz.pictures([tensor, tensor.movedim(0, -1).numpy(), tensor / 255], ["a " * 40, "b\nc", ""], columns=2)
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_array_equal(shown[0], tensor.movedim(0, -1))
    np.testing.assert_array_equal(shown[1], shown[0])
    np.testing.assert_allclose(shown[2], shown[0] / 255, atol=1e-6)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert figure.get_figheight() > viz.pictures([tensor] * 3, ["a", "b", ""], columns=2).get_figheight()
    assert "\n" in titles[0] and titles[1:] == ["b\nc", "", ""]


def test_captions_name_what_is_present_and_mark_what_is_unknown():
    assert viz.captions([[1, 1, 0], [0, 0, 0], [1, 0, -1]], ["a", "b", "c"]) == ["a, b", "no label", "a, c?"]


@pytest.mark.parametrize(
    ("images", "captions", "said"),
    [([], [], "0 pictures"), ([np.zeros((4, 4, 3))], ["a", "b"], "2 captions"), ([np.zeros((4, 4))], [], "(4, 4)")],
)
def test_pictures_that_cannot_be_shown(images, captions, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        viz.pictures(images, captions)


def test_shares_are_written_into_few_cells_and_leave_out_the_diagonal():
    share = np.array([[1, 0.25], [np.nan, 1]])
    axes = viz.cooccurrence_share(share, ["a", "b"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["25"]
    assert share[0, 0] == 1  # what was given is left as it is
    assert np.ma.getmaskarray(axes.images[0].get_array()).tolist() == [[True, False], [True, True]]
    assert not viz.cooccurrence_share(np.full((30, 30), 0.5), ["a"] * 30).axes[0].texts


def test_a_class_has_one_colour_in_all_panels():
    rng = np.random.default_rng(0)
    panels = {
        name: (rng.normal(size=(9, 2)), np.array(owners)) for name, owners in (("a", [0, 1, 2] * 3), ("b", [2] * 9))
    }
    figure = viz.projections(panels, ["x", "y", "z"])
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
    figure = viz.class_distances({"a": table, "b": table}, ["x", "y", "z"])
    for axes in figure.axes:
        marks = {line.get_label(): line.get_xdata() for line in axes.lines}
        assert len(marks) == 2 + absent and all(np.isnan(values[2]) for values in marks.values())
        np.testing.assert_array_equal(marks["same class"], table.intra)
        assert len(axes.collections[0].get_segments()) == 2
    figure.canvas.draw()


def test_a_picture_is_clear_at_the_highest_weight():
    image = torch.full((3, 6, 8), 200, dtype=torch.uint8)
    weights = np.zeros((3, 4), dtype=np.float32)
    weights[0, 0] = 1
    shown = viz.veiled(image, weights)
    assert shown.shape == (6, 8, 3) and shown.dtype == np.uint8
    assert (shown[0, 0] == 200).all() and (shown[-1, -1] < 100).all()
    np.testing.assert_array_equal(viz.veiled(image.permute(1, 2, 0).numpy(), weights), shown)
