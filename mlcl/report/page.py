"""The report of a run as one self-contained HTML page."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlcl import analysis, viz
from mlcl.analysis import frequency
from mlcl.analysis.evaluation import LEAST_IMAGES
from mlcl.analysis.localisation import MEASURES
from mlcl.data.labels import never_absent
from mlcl.report import figures, locate
from mlcl.report.findings import Findings, gather
from mlcl.report.training_log import training_log
from mlcl.runs.folders import name_and_version
from mlcl.system.console import say
from mlcl.system.files import write_whole
from mlcl.viz import pages

_PAIRS = 12  # of the co-occurrence table, either way
_SIDE = 224  # pixels of the longer side of a thumbnail


def write(
    run: Path,
    output: Path | None = None,
    data_root: str | None = None,
    max_images: int = 400,
    imports: tuple[str, ...] = (),
) -> Path:
    """Write the report of a run to ``output`` (by default ``report.html`` beside the results), and return that path.

    Where the checkpoint or the images are gone, the page goes without what needs them, with a note. For the other
    arguments see :func:`mlcl.report.findings.gather`. Raises an MlclError if there are no results to report.
    """
    found = gather(locate.results_in(run), data_root, max_images, imports)
    for note in found.evidence.notes:
        say(f"report: {note}")
    output = output or found.results.folder / "report.html"
    write_whole(output, pages.render("report.html", **_values(found)))
    say(f"report: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return output


def _values(found: Findings) -> dict[str, Any]:
    """The values that the template names."""
    results, counts = found.results, found.co_occurrence
    present = results.targets == 1
    sections = [_section(found, k) for k in found.errors]
    log = training_log(results.folder)
    embeddings, seen = figures.embeddings(found), results.frequency
    members = results.summary.get("members")
    return {
        "run": results.folder.resolve().name if members else "/".join(name_and_version(results.folder.resolve())),
        "members": members,
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "found": found,
        "results": results,
        "evidence": found.evidence,
        "table": found.decisions,
        "unknown": (results.targets < 0).sum(0),
        "images_without_label": int((~present.any(1)).sum()),
        "without_positives": [results.classes[k] for k in np.flatnonzero(~present.any(0))],
        "without_absences": never_absent(results.targets, results.classes),
        "sections": sections,
        "first": max(sections, key=lambda part: part["false_positives"] + part["false_negatives"])["index"],
        "reliability": pages.svg(*figures.reliability(found)),
        "calibration_errors": [result.error for result in found.reliability.values()],
        "counts": counts,
        "pairs": counts.pairs(_PAIRS),
        "heat_map": pages.svg(*figures.heat_map(found)),
        "mapped": min(figures.MAP_CLASSES, len(results.classes)),
        "least_images": LEAST_IMAGES,
        "looks": _looks(found),
        "doubtful": {
            label: [
                {**shot, "class": results.classes[k], "doubt": doubt}
                for row, k, doubt in entries
                for shot in _pictures(found, k, [row])
            ]
            for label, entries in found.doubtful.items()
        },
        "seen": None if seen is None else seen[0],
        "groups": None if seen is None else frequency.by_frequency(results.class_ap, *seen),
        "groups_meaning": "" if seen is None else frequency.meaning(seen[1]),
        "embeddings": pages.svg(*embeddings) if embeddings else None,
        "training": [pages.svg(*described) for described in (figures.training(log) if log else ())],
    }


def _looks(found: Findings) -> dict[str, Any] | None:
    """The part about where the attention lies, where that was measured."""
    results = found.results
    located, summary = results.localisation, results.summary.get("localisation")
    if located is None or not isinstance(summary, dict) or not len(located.index):
        return None
    drawn = figures.ap_against_energy(found)
    return {
        "summary": summary,
        "plot": pages.svg(*drawn) if drawn else None,
        "means": {name: located.class_means(name, len(results.classes)) for name in MEASURES},
        "elsewhere": [
            {**shot, "class": results.classes[k]} for row, k in found.elsewhere for shot in _pictures(found, k, [row])
        ],
    }


def _section(found: Findings, k: int) -> dict[str, Any]:
    """The part about one class."""
    results, targets = found.results, found.results.targets
    wrong = results.predicted[:, k] & (targets[:, k] == 0)
    missed = ~results.predicted[:, k] & (targets[:, k] == 1)
    falsely = results.predicted & (targets == 0)
    return {
        "index": k,
        "curve": pages.svg(*figures.pr_curve(found, k)) if k in found.curves else None,
        "absent": _pictures(found, k, found.errors[k].absent),
        "present": _pictures(found, k, found.errors[k].present),
        "false_positives": int(wrong.sum()),
        "false_negatives": int(missed.sum()),
        "there_instead": analysis.companions(wrong, targets == 1, targets >= 0, k),
        "predicted_instead": analysis.companions(missed, falsely, targets >= 0, k),
    }


def _pictures(found: Findings, k: int, rows: list[int]) -> list[dict[str, Any]]:
    """Thumbnails in their own proportions; images that are gone or damaged are left out."""
    results, evidence, shown = found.results, found.evidence, []
    for row in rows:
        pixels = evidence.picture(row)
        if pixels is None:
            continue
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        width, height = (max(1, round(side * _SIDE / max(picture.size))) for side in picture.size)
        picture.thumbnail((_SIDE, _SIDE))  # never larger than the picture, which the page enlarges
        weights, objects = evidence.attention.get((row, k)), evidence.objects.get((row, k))
        shown.append(
            {
                "source": pages.inline(picture, "jpeg"),
                "width": width,
                "height": height,
                "attention": None if weights is None else pages.inline(Image.fromarray(viz.overlay(weights)), "png"),
                "objects": None if objects is None else pages.inline(_outline(objects, (width, height)), "png"),
                "class": "",
                "doubt": None,
                "name": results.images[row],
                "probability": results.probabilities[row, k],
                "predicted": results.predicted[row, k],
                "labels": found.labels(row),
            }
        )
    return shown


def _outline(objects: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """The outline of a mask (H, W) for a thumbnail of so many pixels; a small object does not vanish."""
    shrunk = Image.fromarray(objects).convert("L").resize(size, Image.Resampling.BOX)
    inside = np.asarray(shrunk) > 127
    return Image.fromarray(viz.outline(inside if inside.any() else np.asarray(shrunk) > 0))
