"""The picture of ``curve.py``: time and memory over the batch size, a line per number of classes."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUES, RED = ("#7fb3d5", "#4292c6", "#2171b5", "#08306b"), "#b5453c"  # from few classes to many; all pairs
GAP = 0.062  # between two labels, of the panel's height
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mlcl",  # the same file from the same numbers
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # every text carries the whole list
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
RAISED = str.maketrans("0123456789.-", "⁰¹²³⁴⁵⁶⁷⁸⁹·⁻")


def draw(report: dict[str, dict], path: Path) -> None:
    """Write the figure; the suffix of ``path`` says as what."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 6.4), layout="constrained")
        grid = figure.subplots(len(report), 2, squeeze=False)
        for panels, (part, formulations) in zip(grid, report.items(), strict=True):
            _panel(panels[0], formulations, "median", 1e3, "time", f"{part}: time in ms")
            _panel(panels[1], formulations, "bytes", 1e-6, "memory", f"{part}: peak memory in MB")
        for panel in grid[-1]:
            panel.set_xlabel("images per step, B")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=100)


def _panel(axes: Axes, formulations: dict[str, dict], key: str, scale: float, fit: str, title: str) -> None:
    """One quantity: solid lines are ours, dashed ones all pairs; each is named where it ends."""
    ticks = sorted({row["B"] for content in formulations.values() for row in content["rows"]})
    ends: list[tuple[float, float, str, str]] = []  # of lines that reach the right
    for theirs, (name, content) in enumerate(formulations.items()):
        rows = content["rows"]
        for classes, blue in zip(sorted({row["K"] for row in rows}), BLUES, strict=False):
            line = np.array(sorted((row["B"], row[key] * scale) for row in rows if row["K"] == classes))
            colour, text = (RED, f"{classes:,}, {name}") if theirs else (blue, f"{classes:,} classes")
            axes.plot(*line.T, "o--" if theirs else "o-", color=colour, markersize=3, linewidth=1.4)
            if line[-1][0] == ticks[-1] and not theirs:
                ends.append((*line[-1], text, colour))
            elif not theirs:
                _label(axes, text, line[-1], colour, (-4, 8), "center")
            elif len(line) < 3:  # no room left of it
                _label(axes, text, line[-1], colour, (6, 0), "left")
            else:
                _label(axes, text, line[-1], colour, (-5, 3), "right")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.margins(y=0.12)  # room for the labels above
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlim(ticks[0] / 1.2, ticks[-1] * 2.9)  # and right of them
    axes.minorticks_off()
    axes.grid(color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)
    _name(axes, ends)
    fitted = [f"{name} ∝ {_power(content['exponents'][fit])}" for name, content in formulations.items()]
    axes.set_title(title + "\n" + ", ".join(fitted), loc="left", fontsize=9)


def _label(axes: Axes, text: str, point: Sequence[float], colour: str, offset: tuple[int, int], align: str) -> None:
    """Text beside a point, a few points away."""
    look = {"color": colour, "fontsize": 8, "ha": align, "va": "center"}
    axes.annotate(text, tuple(point), offset, textcoords="offset points", annotation_clip=False, **look)


def _name(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Labels right of the lines' ends, moved up where they would touch."""
    below = -1.0  # where the last label lies, of the panel's height
    low, high = np.log10(axes.get_ylim())
    for x, y, text, colour in sorted(ends):
        below = max((np.log10(y) - low) / (high - low), below + GAP)
        _label(axes, text, (x, 10 ** (low + below * (high - low))), colour, (6, 0), "left")


def _power(exponents: dict[str, float | None]) -> str:
    """Such as B¹·¹ K⁰·⁷."""
    return " ".join(f"{along}{f'{p:.1f}'.translate(RAISED)}" for along, p in exponents.items() if p is not None)
