"""What all figures share: colours, matplotlib settings, and how a notebook shows them."""

import sys

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

BLUE, ORANGE, GREEN, PURPLE, RED = "#3a82c8", "#cf7420", "#2d9561", "#9467bd", "#cc5245"
LINES = (BLUE, ORANGE, GREEN, PURPLE, RED, "#8c7a5b")
SOFT = (0, 0, 0, 0.35)  # black with alpha: pages.svg turns it into the page's text colour, grey on light and on dark
_STYLE = {  # font.size keeps its default: matplotlib makes some ticks only when it draws, with the user's settings
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
# Decorator: draw a function's figure in this style, whatever the user's matplotlib settings are.
styled = matplotlib.style.context(["default", _STYLE])


def show_in_notebooks() -> None:
    """Let a notebook show a figure that ends a cell; by itself, IPython does so only once pyplot is in use."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.core.pylabtools import retina_figure

    shell = get_ipython()  # type: ignore[no-untyped-call]
    if shell and Figure not in (formatter := shell.display_formatter.formatters["image/png"]):
        formatter.for_type(Figure, retina_figure)


def single(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def shortened(name: str, most: int = 18) -> str:
    """The name, or its beginning with an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def class_colours(count: int) -> NDArray[np.float64]:
    """As many hues (count, 3), in two luminances (WCAG) that read on light and on dark ground."""
    hues = hsv_to_rgb([(k / count, 1, 1) for k in range(count)])
    linear = 0.15 + 0.85 * hues  # less than full saturation; without it, blue is too dark
    luminance = np.where(np.arange(count) % 2, 0.19, 0.36) / (linear @ (0.2126, 0.7152, 0.0722))
    return np.asarray(1.055 * (linear * luminance[:, None]).clip(0.0031, 1) ** (1 / 2.4) - 0.055)
