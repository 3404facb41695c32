"""What all figures share: colours, matplotlib settings, and how a notebook shows them."""

import colorsys
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, RED = "#3a82c8", "#cf7420", "#2d9561", "#9467bd", "#cc5245"
LINES = (BLUE, ORANGE, GREEN, PURPLE, RED, "#8c7a5b")
SOFT = (0, 0, 0, 0.35)  # black with alpha: pages.svg turns it into the page's text colour, grey on light and on dark
_STYLE: Any = {  # font.size keeps its default: matplotlib makes some ticks only when it draws, with the user's settings
    "text.parse_math": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "figure.facecolor": "white",  # black text stays readable in a dark notebook; pages.svg makes it transparent
    "axes.facecolor": "none",
}
_P = ParamSpec("_P")


def styled(function: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw a function's figure with the style above, whatever the user's matplotlib settings are."""

    @wraps(function)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return function(*args, **kwargs)

    return inner


def show_in_notebooks() -> None:
    """Let a notebook show a figure that ends a cell; by itself, IPython does so only once pyplot is in use."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.core.pylabtools import retina_figure

    shell = get_ipython()  # type: ignore[no-untyped-call]
    formatter = shell.display_formatter.formatters["image/png"] if shell else None
    if formatter is not None and Figure not in formatter:
        formatter.for_type(Figure, retina_figure)


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
    """The colour of this hue with the given relative luminance (WCAG), found by bisection."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        linear = (((c + 0.055) / 1.055) ** 2.4 for c in colorsys.hls_to_rgb(hue, middle, 0.7))
        bright = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) > luminance
        low, high = (low, middle) if bright else (middle, high)
    return colorsys.hls_to_rgb(hue, low, 0.7)
