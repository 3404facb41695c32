"""The figures of the findings, each with a description in words."""

import numpy as np
from matplotlib.figure import Figure

from mlcl import viz
from mlcl.report.findings import Findings
from mlcl.report.training_log import TrainingLog
from mlcl.viz import pages

MAP_CLASSES = 40  # of the co-occurrence heat map

Described = tuple[Figure, str]


def pr_curve(found: Findings, k: int) -> Described:
    """The precision-recall curve of a class with positives."""
    results, curve = found.results, found.curves[k]
    base_rate = (results.targets[:, k] == 1).sum() / (results.targets[:, k] >= 0).sum()
    title = f"{results.classes[k]}: AP {100 * results.class_ap[k]:.1f}"
    at = "nothing is predicted at the threshold"
    if curve.point:
        recall, precision = (f"{100 * value:.0f} %" for value in curve.point)
        at = f"at the threshold {results.thresholds[k]:.2f} recall is {recall} and precision {precision}"
    alt = f"Precision-recall curve of {title}; {at}; guessing has a precision of {100 * base_rate:.0f} %."
    return viz.pr_curve(curve, base_rate, title), alt


def reliability(found: Findings) -> Described:
    """Reliability before and after calibration, or once where no temperature was fitted."""
    curves = {f"temperature {temperature:.3g}": result for temperature, result in found.reliability.items()}
    errors = (f"{result.error:.4f} at {name}" for name, result in curves.items())
    return viz.reliability(curves), f"Reliability diagram: expected calibration error {', '.join(errors)}."


def heat_map(found: Findings) -> Described:
    """Co-occurrence of all classes, or of those with the largest deviations."""
    shown = found.co_occurrence.strongest(MAP_CLASSES)
    names = [pages.clean(found.results.classes[k]) for k in shown]  # ticks get their text again when drawn
    alt = f"Heat map of {len(shown)} classes: share predicted minus share present beside each other class, in points."
    return viz.cooccurrence(found.co_occurrence.difference[np.ix_(shown, shown)], names), alt


def ap_against_energy(found: Findings) -> Described | None:
    """AP against where the attention lies, where that was measured."""
    located, classes = found.results.localisation, found.results.classes
    if located is None or not len(located.index):
        return None
    energy, chance = (located.class_means(name, len(classes)) for name in ("energy", "chance"))
    alt = (
        f"Average precision of {len(classes)} classes against the share of their attention that lies on their objects, "
        f"on average {100 * np.nanmean(energy):.0f} %, where chance is {100 * np.nanmean(chance):.0f} %."
    )
    return viz.ap_against_energy(found.results.class_ap, energy, chance, classes), alt


def embeddings(found: Findings) -> Described | None:
    """The projection of the embeddings, where there are any."""
    if found.projection is None or found.evidence.embeddings is None:
        return None
    points, method = found.projection
    owners = found.evidence.embeddings.owners
    alt = (
        f"Projection by {method} of {len(points):,} class-specific embeddings of images in which the class is present, "
        f"coloured by class ({len(np.unique(owners))} classes)."
    )
    return viz.embedding_scatter(points, owners, found.results.classes), alt


def training(log: TrainingLog) -> list[Described]:
    """Losses, validation metrics and learning rates, as far as they were logged."""
    kinds = ((log.losses, "loss", "Losses"), (log.metrics, "percent", "Validation"), (log.rates, "", "Learning rate"))
    described = []
    for curves, ylabel, title in kinds:
        if curves:
            lasts = ", ".join(f"{name} {float(y[-1]):.4g}" for name, (_, y) in curves.items())
            figure = viz.lines(curves, log.xlabel, ylabel, title)
            described.append((figure, f"{title} over {log.xlabel}s; last values: {lasts}."))
    return described
