"""The parts of the page as plain values and figures, for the template to lay out."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from mlcl import analysis, viz
from mlcl.analysis import Companion, CoOccurrence, Decisions
from mlcl.analysis.embeddings import project
from mlcl.report import pictures
from mlcl.report.evidence import Evidence
from mlcl.report.pictures import Errors, Thumbnail
from mlcl.report.results import Results, TrainingLog, sigmoid
from mlcl.viz import pages

_MAP_CLASSES = 40  # of the co-occurrence heat map
_PAIRS = 12  # of its table, either way


@dataclass(frozen=True)
class Shot:
    """One picture with what is said of it."""

    thumbnail: Thumbnail
    attention: str | None  # data: address
    name: str
    probability: float
    predicted: bool
    labels: str  # what is truly there


@dataclass(frozen=True)
class ClassSection:
    """What is shown of one class."""

    index: int
    name: str
    curve: Markup | None
    absent: list[Shot]
    present: list[Shot]
    false_positives: int
    false_negatives: int
    there_instead: list[Companion]  # present where this class is wrongly predicted
    predicted_instead: list[Companion]  # wrongly predicted where this class is missed


@dataclass(frozen=True)
class Pair:
    """Two classes: of the images with the first, in how many the second is, and is predicted."""

    first: str
    second: str
    images: int
    present: int
    predicted: int

    @property
    def difference(self) -> float:
        """Share predicted minus share present."""
        return (self.predicted - self.present) / self.images


def class_section(results: Results, k: int, errors: Errors, evidence: Evidence, table: Decisions) -> ClassSection:
    """Everything about class ``k``."""
    targets, known = results.targets, results.targets >= 0
    wrong = results.predicted[:, k] & (targets[:, k] == 0)
    missed = ~results.predicted[:, k] & (targets[:, k] == 1)
    falsely = results.predicted & (targets == 0)
    return ClassSection(
        index=k,
        name=results.classes[k],
        curve=_curve(results, k, table) if table.positives[k] else None,
        absent=_shots(results, k, errors.absent, evidence),
        present=_shots(results, k, errors.present, evidence),
        false_positives=int(wrong.sum()),
        false_negatives=int(missed.sum()),
        there_instead=analysis.companions(wrong, targets == 1, known, k),
        predicted_instead=analysis.companions(missed, falsely, known, k),
    )


def _curve(results: Results, k: int, table: Decisions) -> Markup:
    name, threshold = pages.clean(results.classes[k]), results.thresholds[k]
    curve = analysis.pr_curve(results.probabilities[:, k], results.targets[:, k], threshold)
    base_rate = table.positives[k] / max(1, (results.targets[:, k] >= 0).sum())
    title = f"{name}: AP {100 * results.class_ap[k]:.1f}"
    at = "nothing is predicted at the threshold"
    if curve.point:
        recall, precision = (f"{100 * value:.0f} %" for value in curve.point)
        at = f"at the threshold {threshold:.2f} recall is {recall} and precision {precision}"
    alt = f"Precision-recall curve of {title}; {at}; guessing has a precision of {100 * base_rate:.0f} %."
    return pages.svg(viz.pr_curve(curve, base_rate, title), alt)


def _shots(results: Results, k: int, rows: list[int], evidence: Evidence) -> list[Shot]:
    shots = []
    for row in rows:
        small = pictures.thumbnail(evidence.paths[row]) if row in evidence.paths else None
        if small is None:
            continue
        labels = [results.classes[j] for j in np.flatnonzero(results.targets[row] == 1)]
        shots.append(
            Shot(
                thumbnail=small,
                attention=pictures.layer(evidence.seen.attention.get((row, k))),
                name=results.images[row],
                probability=float(results.probabilities[row, k]),
                predicted=bool(results.predicted[row, k]),
                labels=", ".join(labels) or "no label",
            )
        )
    return shots


def reliability(results: Results) -> tuple[Markup, float, float | None]:
    """The diagram, the calibration error, and the error at temperature 1 where the temperature is another."""
    now = analysis.reliability(results.probabilities, results.targets)
    curves = {f"temperature {results.temperature:.3g}": now}
    alt = f"Reliability diagram: expected calibration error {now.error:.3f}"
    before = None
    if results.temperature != 1:
        raw = analysis.reliability(sigmoid(results.logits), results.targets)
        curves, before = {"temperature 1": raw} | curves, raw.error
        alt += f", {raw.error:.3f} at temperature 1"
    return pages.svg(viz.reliability(curves), f"{alt}."), now.error, before


def heat_map(results: Results, counts: CoOccurrence) -> tuple[Markup, int]:
    """The heat map and how many classes are on it: all, or those with the largest deviations."""
    shown = counts.strongest(_MAP_CLASSES)
    names = [pages.clean(results.classes[k]) for k in shown]
    alt = f"Heat map over {len(shown)} classes: how much more or less often than true each class is predicted beside "
    alt += "each other one. The table holds the pairs that stand out."
    return pages.svg(viz.cooccurrence(counts.difference[np.ix_(shown, shown)], names), alt), len(shown)


def pairs(results: Results, counts: CoOccurrence) -> list[Pair]:
    """The pairs that are predicted together most too often, then most too rarely."""
    weight = counts.weight
    order = np.argsort(weight, axis=None, kind="stable")
    often = [place for place in order[::-1][:_PAIRS] if weight.flat[place] > 0]
    rarely = [place for place in order[:_PAIRS] if weight.flat[place] < 0]
    found = []
    for place in (*often, *rarely):
        a, b = divmod(int(place), len(weight))
        numbers_of = (int(c[a, b]) for c in (counts.images, counts.present, counts.predicted))
        found.append(Pair(results.classes[a], results.classes[b], *numbers_of))
    return found


def embeddings(results: Results, evidence: Evidence) -> tuple[Markup, str] | None:
    """The projection and the method's name; None where there is nothing to show."""
    seen = evidence.seen
    projected = project(seen.embeddings)
    if projected is None:
        return None
    points, method = projected
    alt = (
        f"Projection by {method} of {len(points):,} class-specific embeddings of images in which the class is present, "
        f"coloured by class ({len(np.unique(seen.owners))} classes)."
    )
    return pages.svg(viz.embedding_scatter(points, seen.owners, [*map(pages.clean, results.classes)]), alt), method


def training(log: TrainingLog) -> list[Markup]:
    """Losses, validation metrics and learning rates, as far as they were logged."""
    kinds = ((log.losses, "loss", "Losses"), (log.metrics, "percent", "Validation"), (log.rates, "", "Learning rate"))
    figures = []
    for curves, ylabel, title in kinds:
        if not curves:
            continue
        lasts = ", ".join(f"{name} {float(y[-1]):.4g}" for name, (_, y) in curves.items())
        shown = viz.lines(curves, log.xlabel, ylabel, title, zero=True)
        figures.append(pages.svg(shown, f"{title} over {log.xlabel}s; last values: {lasts}."))
    return figures
