"""What a test left behind, read back and checked: ``scores.npz`` and ``metrics.json``."""

import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcl.errors import MlclError

_ARRAYS = ("logits", "targets", "index", "images", "classes", "thresholds", "temperature")
# What numpy, zipfile and json raise for files that are cut off, changed or of another kind.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Saved:
    """One evaluated split of N images and K classes."""

    folder: Path
    split: str
    logits: NDArray[Any]  # (N, K) float, finite
    targets: NDArray[np.int8]  # (N, K) in {1, 0, -1}
    index: NDArray[np.int64]  # (N,) position in the dataset
    images: NDArray[Any]  # (N,) file names relative to the data root; or none, for a dataset without files
    classes: list[str]  # K
    thresholds: NDArray[np.float64]  # (K,) on sigmoid(logits / temperature)
    temperature: float
    definitions: dict[str, Any]
    metrics: dict[str, float | None]  # in [0, 1]
    summary: dict[str, Any]  # all of metrics.json


def read(folder: Path) -> Saved:
    """Read both files of a folder.

    Raises:
        MlclError: if one is missing, damaged, or of a version without thresholds; it names the folder.
    """
    where = os.path.relpath(folder)
    try:
        with (folder / "scores.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS if name in stored}
        summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        split, definitions, metrics = str(summary["split"]), dict(summary["definitions"]), summary.get("metrics", {})
    except FileNotFoundError as error:
        raise MlclError(f"{error.filename}: no such file; run mlcl test again") from None
    except DAMAGE as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else (str(error).splitlines() or ["empty"])[0]
        raise MlclError(f"{where}: its results cannot be read ({reason[:200]}); run mlcl test again") from None
    if missing := [name for name in _ARRAYS if name not in arrays]:
        raise MlclError(f"{where}/scores.npz has no {', '.join(missing)} (an older mlcl's?); run mlcl test again")
    if wrong := _wrong(arrays) or _wrong_definitions(definitions):
        raise MlclError(f"{where}: its results cannot be used: {wrong}; run mlcl test again")
    return Saved(
        folder=folder,
        split=split,
        **{name: arrays[name] for name in ("logits", "targets", "index", "images")},
        classes=[str(name) for name in arrays["classes"]],
        thresholds=arrays["thresholds"].astype(np.float64),
        temperature=float(arrays["temperature"]),
        definitions=definitions,
        metrics=metrics,
        summary=summary,
    )


def _wrong(arrays: dict[str, NDArray[Any]]) -> str | None:
    """What makes these arrays no results, if anything."""
    shape = arrays["logits"].shape
    if len(shape) != 2 or 0 in shape:
        return f"logits of shape {shape}"
    shapes = {"targets": shape, "index": shape[:1], "classes": shape[1:], "thresholds": shape[1:], "temperature": ()}
    for name, wanted in shapes.items():
        if arrays[name].shape != wanted:
            return f"{name} of shape {arrays[name].shape} beside logits of shape {shape}"
    if arrays["images"].shape not in (shape[:1], (0,)):
        return f"{arrays['images'].size} names for {shape[0]} images"
    if not all(np.isin(rows, (1, 0, -1)).all() for rows in _blocks(arrays["targets"])):
        return "targets other than 1, 0 and -1"
    if arrays["logits"].dtype.kind != "f" or not all(np.isfinite(rows).all() for rows in _blocks(arrays["logits"])):
        return "logits that are no finite numbers (a diverged training?)"
    if not ((arrays["thresholds"] >= 0) & (arrays["thresholds"] <= 1)).all() or not 0 < arrays["temperature"] < np.inf:
        return "a threshold outside [0, 1], or a temperature of 0 or below"
    return None


def _blocks(array: NDArray[Any]) -> list[NDArray[Any]]:
    """Some rows (N, K) at a time: numpy's checks make copies of what they check, in eight bytes per entry."""
    step = max(1, 2**20 // array.shape[1])
    return [array[start : start + step] for start in range(0, len(array), step)]


def _wrong_definitions(definitions: dict[str, Any]) -> str | None:
    odd = [name for name, value in definitions.items() if not isinstance(value, str | int | float)]
    return f"the definition of {odd[0]} in metrics.json" if odd else None
