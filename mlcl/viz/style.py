"""What all figures have in common: colours, settings of matplotlib, how a notebook shows them."""

import colorsys
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, RED = "#3a82c8", "#cf7420", "#2d9561", "#9467bd", "#cc5245"
LINES = (BLUE, ORANGE, GREEN, PURPLE, RED, "#8c7a5b")
SOFT = (0, 0, 0, 0.35)  # black with alpha: a page makes it the text colour, as grey on light as on dark
_STYLE: Any = {  # font.size stays: ticks are made when drawn, with the settings of then
    **{"text.parse_math": False, "axes.titlesize": 11, "axes.spines.top": False},
    **{"axes.spines.right": False, "axes.linewidth": 0.8, "lines.linewidth": 1.6, "legend.frameon": False},
    # White, so that black text reads in a dark notebook, too; a page takes it away (pages.svg).
    **{"axes.titlelocation": "left", "figure.facecolor": "white", "axes.facecolor": "none"},
}
_P = ParamSpec("_P")


def styled(function: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw with the style above, whatever the caller's settings are; notebooks show the figure that is returned."""

    @wraps(function)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with _settings():
            figure = function(*args, **kwargs)
        # On the object, not in a subclass: W&B takes a figure for one by the module of its class.
        figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
        return figure

    return inner


@contextmanager
def _settings() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """What IPython asks an object for that ends a cell: without it, it shows figures of pyplot only.

    Twice as many pixels as it takes room, so that it is sharp on today's screens.
    """
    file = io.BytesIO()
    with _settings():
        figure.savefig(file, format="png", dpi=2 * figure.dpi)
    width, height = figure.get_size_inches() * figure.dpi
    return file.getvalue(), {"width": round(width), "height": round(height)}


def single(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def shortened(name: str, most: int = 18) -> str:
    """The name, or its beginning with an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def class_colours(count: int) -> list[tuple[float, float, float]]:
    """As many hues, in two brightnesses that read on light and on dark ground."""
    return [_with_luminance(k / max(1, count), 0.19 if k % 2 else 0.36) for k in range(count)]


def _with_luminance(hue: float, luminance: float) -> tuple[float, float, float]:
    """The colour of this hue whose relative luminance (WCAG) is as given, found by halving."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        linear = (((c + 0.055) / 1.055) ** 2.4 for c in colorsys.hls_to_rgb(hue, middle, 0.7))
        bright = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) > luminance
        low, high = (low, middle) if bright else (middle, high)
    return colorsys.hls_to_rgb(hue, low, 0.7)
