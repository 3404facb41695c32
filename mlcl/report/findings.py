"""What the report and the loggers show of a run's results, gathered once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from mlcl import analysis
from mlcl.analysis import label_issues, localisation
from mlcl.analysis.embeddings import project
from mlcl.analysis.evaluation import CoOccurrence, Decisions, Errors, Floats, PRCurve, Reliability
from mlcl.report import evidence
from mlcl.report.evidence import Evidence
from mlcl.runs.results import Results, read
from mlcl.viz import captions

_ELSEWHERE, _DOUBTFUL = 12, 8  # pictures of them
_MOST_CLASSES = 100  # with a curve and pictures, which take some 100 kB of the page per class


@dataclass(frozen=True)
class Findings:
    """What there is to show of one evaluated split of N images and K classes."""

    results: Results
    decisions: Decisions  # the table of the classes
    co_occurrence: CoOccurrence
    reliability: dict[float, Reliability]  # by temperature: 1, and last the one in use
    errors: dict[int, Errors]  # by class, the worst images of the classes that are shown
    curves: dict[int, PRCurve]  # by class, of those with an AP
    evidence: Evidence  # pictures, attention maps, embeddings
    projection: tuple[Floats, str] | None  # of the embeddings: points (R, 2), and the method
    elsewhere: list[tuple[int, int]]  # row and class of positives that are predicted, but looked for elsewhere
    doubtful: dict[str, list[tuple[int, int, float]]]  # row, class and doubt of labels to look at, by the label

    def labels(self, row: int) -> str:
        """The classes that are present in an image, as text."""
        return captions(self.results.targets[[row]].clip(0), self.results.classes)[0]


def gather(
    folder: Path, data_root: str | None = None, max_images: int = 400, imports: tuple[str, ...] = ()
) -> Findings:
    """Gather what can be shown of the results in a folder; ``evidence.notes`` lists what is left out, and why.

    The images are read from ``data_root`` (by default where the run found them); at most ``max_images`` go through the
    network, for attention maps and embeddings. Raises an MlclError where there are no results.
    """
    results = read(folder)
    probabilities, targets = results.probabilities, results.targets
    # All classes have a section, or those with the lowest AP; in the order of the dataset.
    shown = sorted(results.class_ap.argsort()[:_MOST_CLASSES].tolist())
    errors = {k: analysis.worst_errors(probabilities[:, k], targets[:, k]) for k in shown}
    elsewhere, doubtful = _elsewhere(results), _doubtful(results)
    pairs = [*elsewhere, *((row, k) for found in doubtful.values() for row, k, _ in found)]
    found = evidence.gather(results, errors, pairs, data_root, max_images, imports)
    embeddings = found.embeddings
    return Findings(
        results=results,
        decisions=analysis.decisions(probabilities, targets, results.thresholds),
        co_occurrence=analysis.co_occurrence(results.predicted, targets),
        reliability={
            temperature: analysis.reliability(expit(results.logits.astype(np.float64) / temperature), targets)
            for temperature in (1.0, results.temperature)
        },
        curves={
            k: analysis.pr_curve(probabilities[:, k], targets[:, k], results.thresholds[k])
            for k in shown
            if not np.isnan(results.class_ap[k])
        },
        errors=errors,
        evidence=found,
        projection=project(embeddings.vectors) if embeddings is not None else None,
        elsewhere=elsewhere,
        doubtful=doubtful,
    )


def _doubtful(results: Results) -> dict[str, list[tuple[int, int, float]]]:
    """Of absent and of present labels the most doubtful: those of the list, which leaves out what was trained on."""
    listed = results.label_issues
    if listed is None:  # of an ensemble, or an earlier version
        found = label_issues.find(results.logits, results.targets)
        listed = [*zip(found.rows.tolist(), found.classes.tolist(), found.doubt.tolist(), strict=True)]
    return {
        name: [entry for entry in listed if results.targets[entry[0], entry[1]] == label][:_DOUBTFUL]
        for name, label in (("absent", 0), ("present", 1))
    }


def _elsewhere(results: Results) -> list[tuple[int, int]]:
    """Right for the wrong reason: present, predicted, and with less attention on the objects than chance has."""
    found = results.localisation
    if found is None:
        return []
    right = found.take(results.predicted[results.rows_of(found.index), found.classes])
    chosen = right.take(localisation.elsewhere(right, _ELSEWHERE))
    return list(zip(results.rows_of(chosen.index).tolist(), chosen.classes.tolist(), strict=True))
