"""Whether two runs may be compared: same split, classes, images, labels and metric definitions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mlcl.comparison.folders import shown
from mlcl.errors import MlclError
from mlcl.metrics import CF1Definition, Evaluation, Interpolation, MultiLabelMetrics
from mlcl.runs.record import differences
from mlcl.runs.results import Results

_LABELS = {1: "present", 0: "absent", -1: "unknown"}
# The decision rule belongs to a method when it was calibrated; only two fixed thresholds are a definition.
_OF_THE_METHOD = ("threshold", "temperature")


def variant(run: Results) -> tuple[Interpolation, CF1Definition]:
    """The settings of the metrics that a run was evaluated with."""
    for interpolation in get_args(Interpolation):
        for cf1 in get_args(CF1Definition):
            if _fixed(MultiLabelMetrics(1, 0.5, interpolation, cf1).definitions()) == _fixed(run.definitions):
                return interpolation, cf1
    raise MlclError(f"{shown(run.folder)}: its metric definitions are another version's; run mlcl test again")


def evaluate(run: Results) -> Evaluation:
    """All metrics, computed from the scores."""
    metrics = MultiLabelMetrics(len(run.classes), run.thresholds.tolist(), *variant(run), run.temperature)
    metrics.update(torch.from_numpy(run.logits), torch.from_numpy(run.targets))
    metrics.compute()
    assert metrics.evaluation is not None
    return metrics.evaluation


def align(run: Results, reference: Results) -> Results:
    """The same run with its images in the order of the reference; refuses runs that cannot be compared."""
    who = f"{shown(reference.folder)} and {shown(run.folder)}"
    if run.split != reference.split:
        raise MlclError(f"{who} are of other splits: {reference.split} against {run.split}")
    if set(run.classes) != set(reference.classes):
        raise MlclError(f"{who} have other classes: {_only(reference.classes, run.classes)}")
    if run.classes != reference.classes:
        raise MlclError(f"{who} have their classes in another order")
    rows = _same_images(who, reference, run)
    images = run.images[rows] if len(run.images) else run.images
    run = replace(run, images=images, index=run.index[rows], logits=run.logits[rows], targets=run.targets[rows])
    _check_targets(who, reference, run)
    _check_definitions(who, reference.definitions, run.definitions)
    return run


def once(runs: Sequence[Results]) -> tuple[list[Results], list[str]]:
    """The aligned runs of a method without later tests of the same network, and a line for each that is left out.

    Equal logits are no second run: they would narrow the interval, as if a seed had changed nothing.
    """
    kept: list[Results] = []
    notes: list[str] = []
    for run in runs:
        same = next((other for other in kept if np.array_equal(run.logits, other.logits)), None)
        if same is None:
            kept.append(run)
        else:
            notes.append(f"{shown(run.folder)} is left out: it holds the same scores as {shown(same.folder)}")
    return kept, notes


def common_definitions(runs: Sequence[Results]) -> dict[str, Any]:
    """The definitions of aligned runs, with what all of them have in common as threshold."""
    given = {run.definitions.get("threshold"): run for run in reversed(runs)}
    fixed = [value for value in given if isinstance(value, int | float)]
    if len(fixed) > 1:
        low, high = sorted(fixed)[:2]
        raise MlclError(
            f"{shown(given[low].folder)} and {shown(given[high].folder)} are measured with another threshold: {low} "
            f"against {high}; run mlcl test again with the same one, or calibrate"
        )
    common = {name: value for name, value in runs[0].definitions.items() if name != "temperature"}
    return {**common, "threshold": f"{fixed[0]}, but where noted" if fixed and len(given) > 1 else next(iter(given))}


def _same_images(who: str, reference: Results, run: Results) -> NDArray[np.intp]:
    """Rows of the run in the order of the reference, by name or, without unique names, by place in the dataset."""
    for keys, others in ((reference.images, run.images), (reference.index, run.index)):
        if not (_identify(keys, len(reference.targets)) and _identify(others, len(run.targets))):
            continue
        if len(np.setxor1d(keys, others)):
            only = _only([*map(str, keys.tolist())], [*map(str, others.tolist())])
            raise MlclError(f"{who} are of other images: {only}{_data(reference, run)}")
        order = np.argsort(others)
        return order[np.searchsorted(others[order], keys)]
    raise MlclError(f"{who}: names and places in the dataset are both missing or not unique")


def _identify(keys: NDArray[Any], images: int) -> bool:
    """Whether there is a key for every image, each another one; a place of -1 is unknown."""
    return len(np.unique(keys)) == images and not (keys.dtype.kind == "i" and keys.min() < 0)


def _only(before: Sequence[str], after: Sequence[str]) -> str:
    """``12 only in the first (one is 'a.jpg'), 3 only in the second (one is 'b.jpg')``."""
    sides = {"first": sorted(set(before) - set(after)), "second": sorted(set(after) - set(before))}
    return ", ".join(f"{len(only):,} only in the {which} (one is {only[0]!r})" for which, only in sides.items() if only)


def _check_targets(who: str, reference: Results, run: Results) -> None:
    """Refuse other labels: an entry that is unknown in one run and absent in the other changes every number."""
    places = np.argwhere(reference.targets != run.targets)
    if not len(places):
        return
    image, k = places[0]
    name = reference.images[image] if len(reference.images) else f"number {reference.index[image]}"
    before, after = (_LABELS[int(targets[image, k])] for targets in (reference.targets, run.targets))
    raise MlclError(
        f"{who} have other labels for the same images: {len(places):,} entries; the first is image {name}, class "
        f"{reference.classes[k]}, {before} against {after}{_data(reference, run)}"
    )


def _check_definitions(who: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in {**_fixed(before), **_fixed(after)}:
        if before.get(name) != after.get(name):
            raise MlclError(
                f"{who} are measured with another {name}: {before.get(name, 'none')} against "
                f"{after.get(name, 'none')}; run mlcl test again with the same settings"
            )


def _data(reference: Results, run: Results) -> str:
    """The settings of the data that differ, if both configurations are there: usually the reason."""
    keys = ("data", "data.difficult", "data.empty_images", "data.val_fraction", "data.split_seed")
    found = [d for d in differences(reference.config, run.config) if d[0] in keys or d[0].startswith("data.test")]
    return "".join(f"; {key} is {before} against {after}" for key, before, after in found)


def _fixed(definitions: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in definitions.items() if name not in _OF_THE_METHOD}
