"""Figures of data and of predictions, for notebooks, loggers and the report: functions that return a Figure.

They use no pyplot and leave matplotlib's settings alone. A notebook shows the figure that ends a cell.
"""

from matplotlib.figure import Figure

from mlcl.viz.curves import lines, pr_curve, reliability
from mlcl.viz.embeddings import class_distances, embedding_scatter, projections
from mlcl.viz.images import captions, outline, outlined, overlay, pictures, veiled
from mlcl.viz.localisation import ap_against_energy
from mlcl.viz.per_class import bars, cooccurrence, cooccurrence_share
from mlcl.viz.style import show_in_notebooks

__all__ = [
    "Figure",
    "ap_against_energy",
    "bars",
    "captions",
    "class_distances",
    "cooccurrence",
    "cooccurrence_share",
    "embedding_scatter",
    "lines",
    "outline",
    "outlined",
    "overlay",
    "pictures",
    "pr_curve",
    "projections",
    "reliability",
    "veiled",
]

show_in_notebooks()
