"""Tables, curves, pictures and embeddings of an evaluated split, capped, and free of any logger."""

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mlcl import analysis, viz
from mlcl.analysis import Floats
from mlcl.analysis.embeddings import project
from mlcl.data.images import ImageError, read_image
from mlcl.report import evidence, pictures
from mlcl.report.evidence import Evidence
from mlcl.report.pictures import Errors
from mlcl.report.results import Results, read
from mlcl.viz import pages

_MOST_CLASSES = 100  # with pictures and curves; of more, those with the lowest AP
_MOST_ROWS = 1000  # of a table
_CURVE_CLASSES, _CURVE_POINTS = 10, 60
_MAP_CLASSES = 40  # of the co-occurrence heat map
_SIDE = 320  # pixels of a picture
_THROUGH_NETWORK = 300  # images at most, for attention and embeddings
_DIMENSIONS = 32  # of embeddings, after PCA


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns."""

    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W, 3) uint8, and what is said of them."""

    pixels: NDArray[np.uint8]
    caption: str


@dataclass
class Findings:
    """What there is to show of one split; keys are names for the logger."""

    split: str
    tables: dict[str, Table] = field(default_factory=dict)
    curves: Table | None = None  # columns class, recall, precision
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    embeddings: Floats = field(default_factory=lambda: np.empty((0, 0)))  # (R, D)
    owners: list[str] = field(default_factory=list)  # R class names
    notes: list[str] = field(default_factory=list)  # what is left out, and why


def gather(folder: Path, images: int = 24, data_root: str | None = None, imports: tuple[str, ...] = ()) -> Findings:
    """Everything that can be shown of the results in a folder.

    Args:
        folder: with ``scores.npz``, ``metrics.json`` and ``per_class.csv``.
        images: pictures of errors, at most; 0 for none.
        data_root: where the pictures lie; by default where the run found them.
        imports: modules whose classes the checkpoint may name.

    Raises:
        MlclError: if there are no results.
    """
    results = read(folder)
    shown = evidence.classes_shown(results, _MOST_CLASSES)
    worst = pictures.worst(results.probabilities, results.targets)
    errors = {k: worst[k] for k in shown}
    gathered = evidence.gather(results, errors, data_root, _THROUGH_NETWORK, imports)
    decisions = analysis.decisions(results.probabilities, results.targets, results.thresholds)
    found = Findings(results.summary["split"], notes=gathered.notes)
    found.tables = {"metrics": _metrics(results), "per_class": _per_class(results, decisions)}
    found.curves = _curves(results, shown)
    attention = gathered.seen.attention  # not of all errors, where there are many classes
    halves = ("absent", "false_positives", (images + 1) // 2), ("present", "false_negatives", images // 2)
    for kind, name, most in halves:
        chosen = [place for place in _worst(results, errors, kind) if place in attention or not attention][:most]
        if wrong := [shot for row, k in chosen if (shot := _shot(results, gathered, row, k)) is not None]:
            found.pictures[name] = wrong
    found.pictures |= {name: [picture] for name, picture in _figures(results, gathered)}
    found.owners = [pages.clean(results.classes[k]) for k in gathered.seen.owners]
    found.embeddings = _reduced(gathered.seen.embeddings)
    return found


def _metrics(results: Results) -> Table:
    """Each number with its unit, its better direction and its definition."""
    definitions = results.summary["definitions"]
    how = {name.strip(): str(text) for names, text in definitions.items() for name in names.split(",")}
    rows = []
    for name, value in results.summary["metrics"].items():
        plain, _, top3 = name.partition("_")
        said = "; ".join(how[part] for part in (plain, top3) if part in how)
        rows.append([name, None if value is None else 100 * value, "percent", "higher", said])
    return Table(["metric", "value", "unit", "better", "definition"], rows)


def _per_class(results: Results, decisions: analysis.Decisions) -> Table:
    """Worst AP first; of very many classes the worst."""
    percents = results.class_ap, decisions.precision, decisions.recall, decisions.f1, results.thresholds
    names = [*map(pages.clean, results.classes)]
    order = np.argsort(np.where(np.isnan(results.class_ap), np.inf, results.class_ap), kind="stable")[:_MOST_ROWS]
    rows = [
        [
            names[k],
            *(_plain(100 * column[k]) for column in percents),
            int(decisions.positives[k]),
        ]
        for k in order
    ]
    named = ["AP", "precision", "recall", "F1", "threshold"]
    return Table(["class", *(f"{name} (percent)" for name in named), "positives"], rows)


def _curves(results: Results, shown: Iterable[int]) -> Table:
    """The classes with the lowest AP, their curves thinned out."""
    measured = [k for k in shown if not np.isnan(results.class_ap[k])]
    rows: list[list[Any]] = []
    for k in sorted(measured, key=lambda k: results.class_ap[k])[:_CURVE_CLASSES]:
        curve = analysis.pr_curve(results.probabilities[:, k], results.targets[:, k])
        name = f"{pages.clean(results.classes[k])} (AP {100 * results.class_ap[k]:.1f})"
        kept = np.unique(np.linspace(0, len(curve.recall) - 1, _CURVE_POINTS).astype(int))
        rows += [[name, float(curve.recall[i]), float(curve.precision[i])] for i in kept]
    return Table(["class", "recall", "precision"], rows)


def _worst(results: Results, errors: dict[int, Errors], kind: str) -> list[tuple[int, int]]:
    """(row, class) of what is decided wrongly, the surest first; two of a class, then the others in turn."""
    wrong = [
        (rank // 2, -abs(float(results.probabilities[row, k] - results.thresholds[k])), row, k)
        for k, error in errors.items()
        for rank, row in enumerate(getattr(error, kind))
        if bool(results.predicted[row, k]) == (kind == "absent")
    ]
    return [(row, k) for _, _, row, k in sorted(wrong)]


def _shot(results: Results, gathered: Evidence, row: int, k: int) -> Picture | None:
    if row not in gathered.paths:
        return None
    try:
        pixels = read_image(gathered.paths[row])
    except ImageError:
        return None
    labels = [results.classes[j] for j in np.flatnonzero(results.targets[row] == 1)]
    said = f"{results.classes[k]} {100 * results.probabilities[row, k]:.0f} % | labels: {', '.join(labels) or 'none'}"
    shown = beside(pixels.permute(1, 2, 0).numpy(), gathered.seen.attention.get((row, k)))
    return Picture(shown, pages.clean(f"{said} | {results.images[row]}"))


def beside(pixels: NDArray[np.uint8], weights: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """The picture, and beside it where the class looked; each in a square, as a gallery wants equal sizes.

    Args:
        pixels: (H, W, 3) uint8.
        weights: (h, w) attention of one class; None leaves the second square out.

    Returns:
        (S, 2 S, 3) or (S, S, 3) uint8.
    """
    parts = [pixels] if weights is None else [pixels, viz.veiled(pixels, weights)]
    squares = [ImageOps.pad(Image.fromarray(part), (_SIDE, _SIDE), color="white") for part in parts]
    return np.hstack([np.asarray(square) for square in squares])


def _figures(results: Results, gathered: Evidence) -> Iterable[tuple[str, Picture]]:
    """Reliability, co-occurrence, and the projection of the embeddings."""
    now = analysis.reliability(results.probabilities, results.targets)
    diagram = viz.reliability({f"temperature {results.temperature:.3g}": now})
    yield "reliability", Picture(_pixels(diagram), f"expected calibration error {now.error:.4f}")
    counts = analysis.co_occurrence(results.predicted, results.targets)
    mapped = counts.strongest(_MAP_CLASSES)
    heat_map = viz.cooccurrence(counts.difference[np.ix_(mapped, mapped)], [results.classes[k] for k in mapped])
    yield "co_occurrence", Picture(_pixels(heat_map), "share predicted minus share present, in points")
    if (projected := project(gathered.seen.embeddings)) is not None:
        points, method = projected
        scatter = viz.embedding_scatter(points, gathered.seen.owners, results.classes)
        yield "embeddings", Picture(_pixels(scatter), f"class-specific embeddings, {method}")


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """On white: the figure's own ground is transparent, and a logger's page may be dark."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box then; the tables have every name in full
        pages.clean_texts(figure).savefig(file, format="png", dpi=110, facecolor="white")
    return np.asarray(Image.open(file).convert("RGB"))


def _reduced(embeddings: Floats) -> Floats:
    """At most 32 dimensions: a projector needs no more, and a table of 512 weighs megabytes."""
    if min(embeddings.shape) <= _DIMENSIONS:
        return embeddings
    from sklearn.decomposition import PCA

    reduced: Floats = PCA(_DIMENSIONS, random_state=0).fit_transform(embeddings)
    return reduced


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)
