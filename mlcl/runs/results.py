"""Reading what an evaluation wrote: its scores, its numbers, and the lists beside them."""

import csv
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mlcl.analysis.localisation import Localisation
from mlcl.analysis.measures import NAMES
from mlcl.errors import MlclError, cell
from mlcl.runs.folders import CONFIG, beside
from mlcl.system import yaml_text

LOCALISATION, LABEL_ISSUES = "localisation.npz", "label_issues.csv"
_Number = TypeVar("_Number", int, float)
_ARRAYS = ("logits", "targets", "index", "images", "classes", "thresholds", "temperature")
# What numpy, zipfile, json and csv raise for files that are cut off, changed or of another kind.
_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError),
    *(zipfile.BadZipFile, zlib.error, csv.Error),
)


@dataclass(frozen=True)
class Results:
    """One evaluated split of N images and K classes."""

    folder: Path
    split: str
    classes: list[str]  # K
    images: NDArray[np.str_]  # (N,) file names relative to the data root; empty for a dataset without files
    index: NDArray[np.int64]  # (N,) position in the dataset
    logits: NDArray[Any]  # (N, K) float, finite
    targets: NDArray[np.int8]  # (N, K) in {1, 0, -1}
    thresholds: NDArray[np.float64]  # (K,) on the probabilities
    temperature: float
    metrics: dict[str, float | None]  # in [0, 1]; None where not defined
    definitions: dict[str, Any]
    summary: dict[str, Any]  # all of metrics.json

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """(N, K), calibrated: sigmoid(logits / temperature)."""
        return np.asarray(expit(self.logits.astype(np.float64) / self.temperature))

    @cached_property
    def predicted(self) -> NDArray[np.bool_]:
        """(N, K), whether the probability reaches the threshold."""
        return np.asarray(self.probabilities >= self.thresholds)

    @cached_property
    def class_ap(self) -> NDArray[np.float64]:
        """(K,) from ``per_class.csv``, in [0, 1]; NaN for a class without positives."""
        return np.array(self._per_class("AP", lambda text: float(text or "nan")))

    @cached_property
    def frequency(self) -> tuple[NDArray[np.int64], tuple[int, int]] | None:
        """(K,) training images of each class, and the borders of tail and head; None where they were not written."""
        if "frequency" not in self.summary:
            return None
        counts = self._per_class("train_positives", int)
        try:
            low, high = (int(border) for border in self.summary["frequency"]["borders"])
        except _DAMAGE as error:
            raise _unreadable(self.folder, error) from error
        return np.array(counts, dtype=np.int64), (low, high)

    def _per_class(self, column: str, read: Callable[[str], _Number]) -> list[_Number]:
        """The numbers of a column of ``per_class.csv``."""
        try:
            with (self.folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
                values = [read(row[column]) for row in csv.DictReader(file)]
            if len(values) != len(self.classes):
                raise ValueError(f"per_class.csv has {len(values)} classes, scores.npz {len(self.classes)}")
        except _DAMAGE as error:
            raise _unreadable(self.folder, error) from error
        return values

    def rows_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of images, by their positions in the dataset, all of which are in these results."""
        order = np.argsort(self.index)
        return np.asarray(order[np.searchsorted(self.index[order], index)])

    @cached_property
    def localisation(self) -> Localisation | None:
        """Where each class looked, if the run was tested with ``--localise true``; its index is that of the images."""
        path = self.folder / LOCALISATION
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                columns = {field.name: stored[field.name] for field in fields(Localisation)}
            kinds = {name: column.dtype.kind for name, column in columns.items()}
            if any(kind not in ("iu" if name in ("index", "classes") else "f") for name, kind in kinds.items()):
                raise ValueError(f"{LOCALISATION} holds other kinds of numbers")
            index, classes = columns["index"], columns["classes"]
            if index.ndim != 1 or any(column.shape != index.shape for column in columns.values()):
                raise ValueError(f"columns of {LOCALISATION} differ in length")
            if not np.isin(index, self.index).all() or not np.isin(classes, range(len(self.classes))).all():
                raise ValueError(f"{LOCALISATION} is of other images or classes than scores.npz")
        except _DAMAGE as error:
            raise _unreadable(self.folder, error) from error
        return Localisation(**columns)

    @cached_property
    def label_issues(self) -> list[tuple[int, int, float]] | None:
        """Row, class and doubt of the labels of these images that the scores contradict; None without a list."""
        path = self.folder / LABEL_ISSUES
        if not path.exists():
            return None
        names = self.images if len(self.images) else self.index
        rows = {cell(str(name)): row for row, name in enumerate(names.tolist())}
        classes = {cell(name): k for k, name in enumerate(self.classes)}
        try:
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                listed = [entry for entry in csv.DictReader(file) if entry["split"] == self.split]
                return [(rows[one["image"]], classes[one["class"]], float(one["doubt"])) for one in listed]
        except _DAMAGE as error:
            raise _unreadable(self.folder, error) from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's ``config.yaml``; empty where it is gone."""
        path = beside(self.folder, CONFIG)
        content = yaml_text.read_file(path) if path else None
        if not isinstance(content, dict | None):
            raise MlclError(f"{path} must map keys (data, model, trainer, ...) to their settings")
        return content or {}


def read(folder: Path) -> Results:
    """Read the results in a folder."""
    where = os.path.relpath(folder)
    try:
        with (folder / "scores.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS}
        summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        metrics, definitions = dict(summary["metrics"]), dict(summary["definitions"])
        split, _ = str(summary["split"]), [metrics[name] for name in NAMES]
    except _DAMAGE as error:
        raise _unreadable(folder, error) from error
    if wrong := _wrong(arrays, definitions):
        raise MlclError(f"{where}: its results cannot be used: {wrong}; run mlcl test again")
    return Results(
        folder=folder,
        split=split,
        classes=[str(name) for name in arrays["classes"]],
        **{name: arrays[name] for name in ("images", "index", "logits", "targets")},
        thresholds=arrays["thresholds"].astype(np.float64),
        temperature=float(arrays["temperature"]),
        metrics=metrics,
        definitions=definitions,
        summary=summary,
    )


def _unreadable(folder: Path, error: Exception) -> MlclError:
    if isinstance(error, FileNotFoundError):
        return MlclError(f"{error.filename}: no such file; run mlcl test again")
    reason = f"no entry {error}" if isinstance(error, KeyError) else (str(error).splitlines() or ["empty"])[0]
    return MlclError(f"{os.path.relpath(folder)}: its results cannot be read ({reason[:200]}); run mlcl test again")


def _wrong(arrays: dict[str, NDArray[Any]], definitions: dict[str, Any]) -> str | None:
    """Why these cannot be results, if so."""
    shape, targets, logits = arrays["logits"].shape, arrays["targets"], arrays["logits"]
    if len(shape) != 2 or 0 in shape:
        return f"logits of shape {shape}"
    shapes = {"targets": shape, "index": shape[:1], "classes": shape[1:], "thresholds": shape[1:], "temperature": ()}
    for name, wanted in shapes.items():
        if arrays[name].shape != wanted:
            return f"{name} of shape {arrays[name].shape} beside logits of shape {shape}"
    if arrays["images"].shape not in (shape[:1], (0,)):
        return f"{arrays['images'].size} names for {shape[0]} images"
    if targets.dtype.kind != "i" or targets.min() < -1 or targets.max() > 1:
        return "targets other than 1, 0 and -1"
    if logits.dtype.kind != "f" or not np.isfinite(logits).all():
        return "logits that are no finite numbers (a diverged training?)"
    if not ((arrays["thresholds"] >= 0) & (arrays["thresholds"] <= 1)).all() or not 0 < arrays["temperature"] < np.inf:
        return "a threshold outside [0, 1], or a temperature of 0 or below"
    odd = [name for name, value in definitions.items() if not isinstance(value, str | int | float)]
    return f"the definition of {odd[0]} in metrics.json" if odd else None
