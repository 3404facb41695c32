"""The pictures behind the results, and what the network makes of them; what is gone is left out with a note."""

from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlcl import inference
from mlcl.analysis.embeddings import ClassEmbeddings, entries, join
from mlcl.analysis.evaluation import Errors
from mlcl.data.image_files import is_pack
from mlcl.data.images import ImageError, read_at, read_image, reading_of
from mlcl.data.regions import union
from mlcl.errors import MlclError
from mlcl.inference.rebuild import Rebuilt
from mlcl.runs import record, trust
from mlcl.runs.folders import beside
from mlcl.runs.results import Results

if TYPE_CHECKING:
    from mlcl.data.pack import PackedPictures

_MOST_EMBEDDINGS = 1500  # in the projection
_BATCH = 32


@dataclass
class Evidence:
    """Of N images and K classes, for some of the images (rows of the results)."""

    paths: dict[int, Path] = field(default_factory=dict)  # by row, of the pictures that exist
    packed: "PackedPictures | None" = None  # what the paths name, by index, if it is no files
    index: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # (N,) by row
    attention: dict[tuple[int, int], NDArray[np.float32]] = field(default_factory=dict)  # by row and class, (h, w)
    objects: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict)  # by row and class, (H, W)
    embeddings: ClassEmbeddings | None = None  # present entries of the drawn images
    passed: int = 0  # images that went through the network
    drawn: int = 0  # of them, drawn at random
    notes: list[str] = field(default_factory=list)  # what is left out, and why
    reading: dict[str, Any] = field(default_factory=dict)  # arguments of read_image

    def picture(self, row: int) -> Tensor | None:
        """(3, H, W) uint8; None where it is missing or damaged: the report leaves it out."""
        path = self.paths.get(row)
        try:
            if path and self.packed is not None:
                return read_at(self.packed, int(self.index[row]), **self.reading)
            return read_image(path, **self.reading) if path else None
        except ImageError:
            return None


def gather(
    results: Results,
    errors: dict[int, Errors],
    others: list[tuple[int, int]],
    data_root: str | None,
    max_images: int,
    imports: tuple[str, ...],
) -> Evidence:
    """Find the pictures, and send some of them through the network; see :func:`mlcl.report.findings.gather`.

    ``others`` are rows and classes that are shown beside the ``errors`` of each class.
    """
    evidence = Evidence()
    given = Path(results.summary.get("checkpoint") or "none")  # its run may have been moved
    checkpoint = beside(results.folder, f"checkpoints/{given.name}") or (given if given.is_file() else None)
    settings = _data_settings(results, checkpoint)
    evidence.reading = reading_of(settings)
    try:
        if data_root is None:
            trust.check_place({"data": {"init_args": settings}}, checkpoint or results.folder)
        root = data_root or settings.get("root") or "."
        if "://" in root or is_pack(root):
            from mlcl.data.pack import Pack  # with fsspec, for which other reports need not wait

            evidence.packed, evidence.index = Pack(root).pictures(results.split), results.index
        evidence.paths = _paths(results, root, evidence.packed, evidence.notes)
    except MlclError as error:
        evidence.notes.append(f"no pictures: {error}")
    if not evidence.paths or not max_images:
        return evidence
    try:
        if results.summary.get("members"):
            raise MlclError("an ensemble has no network of its own; the reports of its members have them")
        if checkpoint is None:
            raise MlclError(f"the checkpoint is gone ({results.summary.get('checkpoint')})")
        model = inference.load(checkpoint, imports=imports)
        if list(model.classes) != results.classes:
            raise MlclError(f"{checkpoint} has other classes than these results")
        _run_network(model, evidence, results, errors, others, max_images)
    except MlclError as error:
        evidence.notes.append(f"no attention maps and no embeddings: {error}")
        return evidence
    if results.localisation is not None:
        pairs = {*others, *((row, k) for k, error in errors.items() for row in error.present)}
        try:
            _find_objects(Rebuilt(checkpoint, imports).datamodule(data_root), evidence, results, sorted(pairs))
        except MlclError as error:
            evidence.notes.append(f"no outlines of the objects: {error}")
    return evidence


def _data_settings(results: Results, checkpoint: Path | None) -> dict[str, Any]:
    """Those of the dataset in the checkpoint's record, or else in the run's config."""
    try:
        config = record.config_of(record.load(checkpoint), checkpoint) if checkpoint else results.config
        return dict(config["data"]["init_args"])
    except (MlclError, KeyError, TypeError):
        return {}


def _paths(results: Results, root: str, packed: "PackedPictures | None", notes: list[str]) -> dict[int, Path]:
    """The pictures that exist, by row."""
    if not len(results.images):
        notes.append("no pictures: these results name no image files")
        return {}
    places = [Path(root) / name for name in results.images]
    if packed is None:
        paths = {row: path for row, path in enumerate(places) if path.is_file()}
    else:
        names = packed.names(results.index)
        paths = {row: path for row, path in enumerate(places) if names[row] == results.images[row]}
    if not paths:
        notes.append(f"no pictures: the images are not there under {root}; --data.root DIR says where they are")
    elif len(paths) < len(places):
        notes.append(f"{len(places) - len(paths):,} of {len(places):,} images are not there under {root}")
    return paths


def choose(errors: list[Errors], count: int, most: int) -> tuple[list[int], list[int]]:
    """Rows for the network: at most half the worst errors, every class's worst first, and rows drawn at random.

    A row may be in both; together they are at most ``most``. Errors alone would bias the projection to hard images.
    """
    ranks = zip_longest(*(error.absent for error in errors), *(error.present for error in errors))
    hard = list(dict.fromkeys(row for rank in ranks for row in rank if row is not None))[: most // 2]
    order = np.random.default_rng(0).permutation(count).tolist()
    fresh = np.cumsum(~np.isin(order, hard))
    return hard, [row for row, used in zip(order, fresh, strict=True) if used <= most - len(hard)]


def _run_network(
    model: inference.Model,
    evidence: Evidence,
    results: Results,
    errors: dict[int, Errors],
    others: list[tuple[int, int]],
    most: int,
) -> None:
    """Fill in attention maps and embeddings, a batch at a time."""
    besides = [*dict.fromkeys(row for row, _ in others if row in evidence.paths)][: most // 4]
    chosen = choose([*errors.values()], len(results.images), most - len(besides))
    hard, drawn = ([row for row in rows if row in evidence.paths] for rows in chosen)
    rows = sorted({*hard, *drawn, *besides})
    pairs = {*others, *((row, k) for k, error in errors.items() for row in (*error.absent, *error.present))}
    evidence.passed, evidence.drawn = len(rows), len(drawn)
    parts = []
    for start in range(0, len(rows), _BATCH):
        read = {row: evidence.picture(row) for row in rows[start : start + _BATCH]}
        pictures = {row: picture for row, picture in read.items() if picture is not None}
        if not pictures:
            continue
        out = model(pictures.values(), batch_size=_BATCH)
        found = entries(out.embeddings, results.targets[[*pictures]], [*pictures])
        parts.append(found.take(np.isin(found.rows, drawn)))
        for row, maps in zip(pictures, out.attention if out.attention is not None else (), strict=False):
            evidence.attention |= {(row, k): maps[k].numpy() for k in range(len(maps)) if (row, k) in pairs}
    if not evidence.attention:
        evidence.notes.append("no attention maps: the head of this network has none")
    if parts and len(every := join(parts)):
        kept = np.random.default_rng(0).permutation(len(every))[:_MOST_EMBEDDINGS]
        evidence.embeddings = every.take(np.sort(kept))


def _find_objects(data: Any, evidence: Evidence, results: Results, pairs: list[tuple[int, int]]) -> None:
    """Fill in the masks of the objects of some rows and classes, as large as the pictures."""
    samples = data.splits[results.split]
    paths = {row: samples.paths[results.index[row]] for row, _ in pairs if results.index[row] < len(samples.paths)}
    rows = [row for row, path in paths.items() if str(path).endswith(results.images[row]) and row in evidence.paths]
    regions = data.read_regions(samples.source, [paths[row] for row in rows])
    for row, found in zip(rows, regions.read() if regions else [], strict=False):
        picture = evidence.picture(row)
        size = None if picture is None else tuple(picture.shape[-2:])
        if size is None or any(region.size not in (None, size) for region in found):  # not measured, either
            continue
        for k in (k for other, k in pairs if other == row):
            mask, area = union([region for region in found if region.column == k], *size)
            if area:
                evidence.objects[row, k] = mask
