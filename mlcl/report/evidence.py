"""The pictures and the network behind the results, where they are still there; where not, one line says why."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mlcl import inference
from mlcl.errors import MlclError
from mlcl.report import pictures
from mlcl.report.pictures import Errors, Seen
from mlcl.report.results import Results
from mlcl.runs import record
from mlcl.runs.folders import beside


@dataclass
class Evidence:
    """What could be gathered."""

    paths: dict[int, Path] = field(default_factory=dict)  # row -> file, of those that exist
    seen: Seen = field(default_factory=Seen)
    passed: int = 0  # images that went through the network
    drawn: int = 0  # of them drawn at random, whose embeddings are shown
    notes: list[str] = field(default_factory=list)  # what is left out of the report, and why


def gather(
    results: Results,
    errors: dict[int, Errors],
    data_root: str | None = None,
    max_images: int = 400,
    imports: tuple[str, ...] = (),
) -> Evidence:
    """Find the pictures and send some of them through the network.

    Args:
        results: of the run.
        errors: the worst images of the classes that are shown.
        data_root: where the images lie; by default where the run found them.
        max_images: how many may go through the network; 0 leaves it out.
        imports: modules whose classes the checkpoint may name.
    """
    evidence = Evidence()
    checkpoint = _checkpoint(results)
    evidence.paths = _paths(results, data_root or _root(results, checkpoint), evidence.notes)
    if not evidence.paths or not max_images:
        return evidence
    if checkpoint is None:
        evidence.notes.append(
            f"no attention maps and no embeddings: the checkpoint is gone ({results.summary.get('checkpoint')})"
        )
        return evidence
    try:
        _look(evidence, results, errors, checkpoint, max_images, imports)
    except MlclError as error:
        evidence.notes.append(f"no attention maps and no embeddings: {error}")
    return evidence


def _look(
    evidence: Evidence,
    results: Results,
    errors: dict[int, Errors],
    checkpoint: Path,
    max_images: int,
    imports: tuple[str, ...],
) -> None:
    model = inference.load(checkpoint, imports=imports)
    if list(model.classes) != results.classes:
        raise MlclError(f"{checkpoint} has other classes than these results")
    hard, drawn = pictures.choose(list(errors.values()), len(results.images), max_images)
    drawn = [row for row in drawn if row in evidence.paths]
    maps: dict[int, list[int]] = {row: [] for row in hard if row in evidence.paths}
    for k, error in errors.items():
        for row in {*error.absent, *error.present} & {*maps, *drawn}:
            maps.setdefault(row, []).append(k)
    evidence.seen = pictures.look(model, evidence.paths, maps, drawn, results.targets)
    evidence.passed, evidence.drawn = len({*maps, *drawn}), len(drawn)
    if not evidence.seen.attention:
        evidence.notes.append("no attention maps: the head of this network has none")


def _checkpoint(results: Results) -> Path | None:
    """The one that was evaluated: where it lies in the run now, since a copied run is its own; or where it was."""
    given = Path(results.summary.get("checkpoint") or "none")
    return beside(results.folder, f"checkpoints/{given.name}") or (given if given.is_file() else None)


def _root(results: Results, checkpoint: Path | None) -> str | None:
    """The data root as the checkpoint's record has it, or else the run's config."""
    try:
        if checkpoint is not None:
            config = record.config_of(record.load(checkpoint), checkpoint)
        else:
            file = beside(results.folder, "config.yaml")
            config = yaml.safe_load(file.read_text(encoding="utf-8")) if file else {}
        root: str | None = config["data"]["init_args"]["root"]
    except (MlclError, KeyError, TypeError, yaml.YAMLError):
        return None
    return root


def _paths(results: Results, root: str | None, notes: list[str]) -> dict[int, Path]:
    """The files that exist; a name that is absolute stands for itself."""
    if not len(results.images):
        notes.append("no pictures: these results name no image files")
        return {}
    places = [Path(root or ".") / name for name in results.images]
    paths = {row: path for row, path in enumerate(places) if path.is_file()}
    if not paths:
        place = f"under {root}" if root else "and where they lay is not known"
        notes.append(f"no pictures: the images are not there {place}; --data.root DIR says where they are")
    elif len(paths) < len(places):
        notes.append(f"{len(places) - len(paths):,} of {len(places):,} images are not there under {root}")
    return paths


def classes_shown(results: Results, most: int) -> Sequence[int]:
    """The classes with a section: all, or those with the lowest AP; in the order of the dataset."""
    if len(results.classes) <= most:
        return range(len(results.classes))
    return sorted(results.class_ap.argsort()[:most].tolist())
