"""``write``: from a run's folder to one HTML file."""

from datetime import datetime
from pathlib import Path
from typing import Any

from mlcl import analysis
from mlcl.report import evidence, locate, pictures, sections
from mlcl.report.results import Results, read, training_log
from mlcl.system.console import say
from mlcl.system.files import write_whole
from mlcl.viz import pages

_MOST_SECTIONS = 100  # classes with a section of their own; with pictures, each weighs some 100 kB


def write(
    run: Path,
    output: Path | None = None,
    data_root: str | None = None,
    max_images: int = 400,
    imports: tuple[str, ...] = (),
) -> Path:
    """Write the report of a run: one self-contained HTML file.

    Where the checkpoint or the images are gone, it is written without what needs them, and one line says so.

    Args:
        run: see :func:`mlcl.report.locate.results_in`.
        output: the file; by default ``report.html`` beside the results.
        data_root: where the images lie; by default where the run found them.
        max_images: how many images at most go through the network, for attention maps and embeddings.
        imports: modules of yours whose classes the checkpoint may name.

    Returns:
        The file.

    Raises:
        MlclError: if there are no results to report, or the file cannot be written.
    """
    results = read(locate.results_in(run))
    output = output or results.folder / "report.html"
    page = pages.render("report.html", **_values(results, data_root, max_images, imports))
    write_whole(output, page)
    say(f"report: {output} ({pages.size(output.stat().st_size)})")
    return output


def _values(results: Results, data_root: str | None, max_images: int, imports: tuple[str, ...]) -> dict[str, Any]:
    """What the template names."""
    shown = evidence.classes_shown(results, _MOST_SECTIONS)
    worst = pictures.worst(results.probabilities, results.targets)
    errors = {k: worst[k] for k in shown}
    gathered = evidence.gather(results, errors, data_root, max_images, imports)
    for note in gathered.notes:
        say(f"report: {note}")
    table = analysis.decisions(results.probabilities, results.targets, results.thresholds)
    counts = analysis.co_occurrence(results.predicted, results.targets)
    diagram, error, error_before = sections.reliability(results)
    heat_map, mapped = sections.heat_map(results, counts)
    parts = [sections.class_section(results, k, errors[k], gathered, table) for k in shown]
    log = training_log(results.folder)
    return {
        "run": _name(results.folder),
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "results": results,
        "summary": results.summary,
        "table": table,
        "unknown": (results.targets < 0).sum(0),
        "sections": parts,
        "first": _first(parts),
        "evidence": gathered,
        "diagram": diagram,
        "calibration_error": error,
        "calibration_error_before": error_before,
        "heat_map": heat_map,
        "mapped": mapped,
        "least_images": analysis.LEAST_IMAGES,
        "pairs": sections.pairs(results, counts),
        "embeddings": sections.embeddings(results, gathered),
        "training": sections.training(log) if log else [],
    }


def _first(parts: list[sections.ClassSection]) -> int:
    """The class that is open at first: the one with the most wrong decisions."""
    return max(parts, key=lambda part: part.false_positives + part.false_negatives).index


def _name(folder: Path) -> str:
    """The run as people call it, such as ``demo/version_0``."""
    parts = folder.resolve().parts
    start = len(parts) - parts[::-1].index("runs") if "runs" in parts else max(0, len(parts) - 2)
    return "/".join(parts[start:]) or folder.name
