"""The findings as tables and pictures that any logger can show."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mlcl import viz
from mlcl.analysis import frequency
from mlcl.analysis.evaluation import Floats
from mlcl.analysis.localisation import MEASURES
from mlcl.report import figures
from mlcl.report.findings import Findings
from mlcl.viz import pages

_MOST_ROWS = 1000  # of a table
_CURVE_CLASSES, _CURVE_POINTS = 10, 60
_SIDE = 320  # pixels of a picture
_DIMENSIONS = 32  # of embeddings: enough for a projector, and a table of 512 weighs megabytes


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns."""

    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W, 3) uint8, and a caption."""

    pixels: NDArray[np.uint8]
    caption: str


@dataclass
class Views:
    """Of one split; keys are names for the logger, and no text holds a character that cannot be stored."""

    split: str
    tables: dict[str, Table]
    curves: Table  # columns class, recall, precision
    pictures: dict[str, list[Picture]]
    embeddings: Floats | None = None  # (R, D)
    owners: Sequence[str] = ()  # R class names


def views(found: Findings, images: int = 24) -> Views:
    """Everything that a logger shows, with at most so many pictures of errors."""
    diagrams = {"reliability": figures.reliability(found), "co_occurrence": figures.heat_map(found)}
    for name, drawn in (("ap_against_energy", figures.ap_against_energy), ("embeddings", figures.embeddings)):
        if (made := drawn(found)) is not None:
            diagrams[name] = made
    pictures = {name: [Picture(_pixels(figure), pages.clean(alt))] for name, (figure, alt) in diagrams.items()}
    halves = ("false_positives", "absent", (images + 1) // 2), ("false_negatives", "present", images // 2)
    for name, kind, most in halves:
        if errors := _error_pictures(found, kind, most):
            pictures[name] = errors
    tables = {"metrics": _metrics(found), "per_class": _per_class(found)}
    if found.results.frequency is not None:
        tables["frequency"] = _frequency(found)
    if found.results.localisation is not None:
        tables["localisation"] = _localisation(found)
    shown = Views(found.results.split, tables, _curves(found), pictures)
    if (embeddings := found.evidence.embeddings) is not None:
        shown.owners = [pages.clean(found.results.classes[k]) for k in embeddings.owners]
        shown.embeddings = embeddings.vectors.astype(np.float64)
        if min(shown.embeddings.shape) > _DIMENSIONS:
            from sklearn.decomposition import PCA  # takes a second, which a page without embeddings does without

            shown.embeddings = PCA(_DIMENSIONS, random_state=0).fit_transform(shown.embeddings)
    return shown


def _metrics(found: Findings) -> Table:
    """Each number with its unit, its better direction and its definition."""
    how = {name.strip(): str(text) for names, text in found.results.definitions.items() for name in names.split(",")}
    rows = []
    for name, value in found.results.metrics.items():
        plain, _, top3 = name.partition("_")
        definition = "; ".join(how[part] for part in (plain, top3) if part in how)
        rows.append([name, None if value is None else 100 * value, "percent", "higher", definition])
    return Table(["metric", "value", "unit", "better", "definition"], rows)


def _per_class(found: Findings) -> Table:
    """The lowest AP first; the end of a very long table is left out."""
    results, decisions = found.results, found.decisions
    names = ("AP", "precision", "recall", "F1", "threshold")
    values = (results.class_ap, decisions.precision, decisions.recall, decisions.f1, results.thresholds)
    percents = (100 * np.stack(values, axis=1)).round(3)
    rows = []
    for k in results.class_ap.argsort(kind="stable")[:_MOST_ROWS]:  # NaN comes last
        numbers = (None if np.isnan(value) else float(value) for value in percents[k])
        rows.append([pages.clean(results.classes[k]), *numbers, int(decisions.positives[k])])
    return Table(["class", *(f"{name} (percent)" for name in names), "positives"], rows)


def _frequency(found: Findings) -> Table:
    """The mAP of frequent, medium and rare classes."""
    assert found.results.frequency is not None
    groups = frequency.by_frequency(found.results.class_ap, *found.results.frequency) or {}
    meaning = frequency.meaning(found.results.frequency[1])
    rows = [[name, groups[name]["classes"], groups[name]["mAP"], meaning] for name in groups if name != "borders"]
    shown = [[*row[:2], None if row[2] is None else 100 * row[2], row[3]] for row in rows]
    return Table(["group", "classes", "mAP (percent)", "definition"], shown)


def _localisation(found: Findings) -> Table:
    """Where each class looks, the least gain first."""
    located, classes = found.results.localisation, found.results.classes
    assert located is not None
    means = {name: located.class_means(name, len(classes)) for name in MEASURES}
    percents, rows = (100 * np.stack(list(means.values()), axis=1)).round(3), []
    for k in means["gain"].argsort(kind="stable")[:_MOST_ROWS]:
        numbers = (None if np.isnan(value) else float(value) for value in percents[k])
        rows.append([pages.clean(classes[k]), *numbers])
    return Table(["class", *(f"{name} (percent)" for name in means)], rows)


def _curves(found: Findings) -> Table:
    """The classes with the lowest AP, their curves thinned out."""
    results, rows = found.results, []
    for k in sorted(found.curves, key=lambda k: results.class_ap[k])[:_CURVE_CLASSES]:
        curve, name = found.curves[k], pages.clean(f"{results.classes[k]} (AP {100 * results.class_ap[k]:.1f})")
        kept = np.unique(np.linspace(0, len(curve.recall) - 1, _CURVE_POINTS).astype(int))
        rows += [[name, float(curve.recall[i]), float(curve.precision[i])] for i in kept]
    return Table(["class", "recall", "precision"], rows)


def _error_pictures(found: Findings, kind: str, most: int) -> list[Picture]:
    """Wrong decisions, the most certain first: two of each class, then two more in turn."""
    results, attention = found.results, found.evidence.attention
    wrong = []
    for k, errors in found.errors.items():
        for rank, row in enumerate(getattr(errors, kind)):
            certainty = abs(float(results.probabilities[row, k] - results.thresholds[k]))
            # Of many classes, not all errors went through the network.
            if results.predicted[row, k] == (kind == "absent") and ((row, k) in attention or not attention):
                wrong.append((rank // 2, -certainty, row, k))
    pictures = []
    for _, _, row, k in sorted(wrong)[:most]:
        if (pixels := found.evidence.picture(row)) is not None:
            percent = f"{100 * results.probabilities[row, k]:.0f} %"
            caption = f"{results.classes[k]} {percent} | labels: {found.labels(row)} | {results.images[row]}"
            picture = pixels.permute(1, 2, 0).numpy()
            if (objects := found.evidence.objects.get((row, k))) is not None:
                picture = viz.outlined(picture, objects)
            shown = beside(picture, attention.get((row, k)))
            pictures.append(Picture(shown, pages.clean(caption)))
    return pictures


def beside(pixels: NDArray[np.uint8], weights: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """A picture (H, W, 3) and, beside it, the same one under its attention (h, w), if any; each padded to a square."""
    parts = [pixels] if weights is None else [pixels, viz.veiled(pixels, weights)]
    squares = [ImageOps.pad(Image.fromarray(part), (_SIDE, _SIDE), color="white") for part in parts]
    return np.hstack([np.asarray(square) for square in squares])


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    file = io.BytesIO()
    pages.save(figure, file, format="png", dpi=110)
    return np.asarray(Image.open(file).convert("RGB"))
