"""The saved scores of a run, and whether two runs may be compared: same split, classes, images, labels, definitions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcl.comparison.folders import shown
from mlcl.errors import MlclError
from mlcl.metrics import CF1Definition, Evaluation, Interpolation, MultiLabelMetrics
from mlcl.runs.record import differences
from mlcl.runs.results import read as read_results

_LABELS = {1: "present", 0: "absent", -1: "unknown"}
# The decision rule belongs to a method when it was calibrated; only two fixed thresholds are a definition.
_OF_THE_METHOD = ("threshold", "temperature")


@dataclass(frozen=True)
class Scores:
    """What ``mlcl test`` left of one run."""

    folder: Path
    split: str
    classes: list[str]
    images: NDArray[Any]  # (N,) names, or empty
    index: NDArray[Any]  # (N,) positions in the dataset
    logits: Tensor  # (N, K) float
    targets: Tensor  # (N, K) int8 in {1, 0, -1}
    thresholds: list[float]  # K, on sigmoid(logits / temperature)
    temperature: float
    definitions: dict[str, Any]
    config: dict[str, Any]  # empty where config.yaml is not there

    @property
    def variant(self) -> tuple[Interpolation, CF1Definition]:
        """The settings of the metrics whose definitions these are.

        Raises:
            MlclError: if this version of mlcl has none such.
        """
        for interpolation in get_args(Interpolation):
            for cf1 in get_args(CF1Definition):
                metrics = MultiLabelMetrics(1, interpolation=interpolation, cf1=cf1)
                if _fixed(metrics.definitions()) == _fixed(self.definitions):
                    return interpolation, cf1
        raise MlclError(f"{shown(self.folder)}: its metric definitions are another version's; run mlcl test again")

    def evaluate(self) -> Evaluation:
        """All metrics, from the scores."""
        interpolation, cf1 = self.variant
        metrics = MultiLabelMetrics(len(self.classes), self.thresholds, interpolation, cf1, self.temperature)
        metrics.update(self.logits, self.targets)
        metrics.compute()
        assert metrics.evaluation is not None
        return metrics.evaluation


def read(folder: Path) -> Scores:
    """Read the results in a folder, and the run's ``config.yaml`` if it is there.

    Raises:
        MlclError: see :func:`mlcl.runs.results.read`; or if the configuration is damaged.
    """
    results = read_results(folder)
    return Scores(
        folder=folder,
        split=results.split,
        classes=results.classes,
        images=results.images,
        index=results.index,
        logits=torch.from_numpy(results.logits),
        targets=torch.from_numpy(results.targets),
        thresholds=results.thresholds.tolist(),
        temperature=results.temperature,
        definitions=results.definitions,
        config=results.config,
    )


def align(run: Scores, reference: Scores) -> Scores:
    """The same run with its images in the order of the reference.

    Raises:
        MlclError: if the two differ in split, classes, images, labels or definitions, saying how.
    """
    who = f"{shown(reference.folder)} and {shown(run.folder)}"
    if run.split != reference.split:
        raise MlclError(f"{who} are of other splits: {reference.split} against {run.split}")
    _check_classes(who, reference.classes, run.classes)
    rows = _same_images(who, reference, run)
    run = replace(
        run, images=run.images[rows] if len(run.images) else run.images, index=run.index[rows],
        logits=run.logits[rows], targets=run.targets[rows],
    )  # fmt: skip
    _check_targets(who, reference, run)
    _check_definitions(who, reference.definitions, run.definitions)
    return run


def common_definitions(runs: Sequence[Scores]) -> dict[str, Any]:
    """The definitions of aligned runs, with what is true of all of them about thresholds and temperature.

    Raises:
        MlclError: if two runs have different fixed thresholds.
    """
    given = {run.definitions.get("threshold"): run for run in reversed(runs)}
    fixed = [value for value in given if isinstance(value, int | float)]
    if len(fixed) > 1:
        pair = [given[value] for value in sorted(fixed)[:2]]
        raise MlclError(
            f"{shown(pair[0].folder)} and {shown(pair[1].folder)} are measured with another threshold: "
            f"{pair[0].definitions['threshold']} against {pair[1].definitions['threshold']}; run mlcl test again with "
            "the same one, or calibrate"
        )
    common = {name: value for name, value in runs[0].definitions.items() if name != "temperature"}
    return {**common, "threshold": f"{fixed[0]}, but where noted" if fixed and len(given) > 1 else next(iter(given))}


def _check_classes(who: str, before: list[str], after: list[str]) -> None:
    if before == after:
        return
    if sorted(before) == sorted(after):
        place = next(k for k, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
        pair = f"{before[place]!r} against {after[place]!r}"
        raise MlclError(f"{who} have their classes in another order: class {place} is {pair}")
    only = [name for name in before if name not in after], [name for name in after if name not in before]
    raise MlclError(f"{who} have other classes: {_only(*only)}")


def _same_images(who: str, reference: Scores, run: Scores) -> Tensor:
    """Rows of the run in the order of the reference, by name or, where names cannot tell, by place in the dataset."""
    for keys, others in ((reference.images, run.images), (reference.index, run.index)):
        if not (_tells_apart(keys, len(reference.targets)) and _tells_apart(others, len(run.targets))):
            continue
        if len(only := np.setxor1d(keys, others)):
            sides = [[str(key) for key in only if key in side] for side in (set(keys.tolist()), set(others.tolist()))]
            raise MlclError(f"{who} are of other images: {_only(*sides)}{_data(reference, run)}")
        order = np.argsort(others)
        return torch.from_numpy(order[np.searchsorted(others[order], keys)])
    raise MlclError(
        f"{who} cannot be matched image by image: names and places in the dataset are both missing or not unique"
    )


def _tells_apart(keys: NDArray[Any], images: int) -> bool:
    given = len(keys) == images and not (keys.dtype.kind == "i" and (keys < 0).any())  # an index of -1 is unknown
    return given and len(np.unique(keys)) == images


def _only(before: list[str], after: list[str]) -> str:
    """``12 only in the first (one is 'a.jpg'), none only in the second``."""
    names = zip(("first", "second"), (before, after), strict=True)
    return ", ".join(
        f"{len(only):,} only in the {which} (one is {only[0]!r})" if only else f"none only in the {which}"
        for which, only in names
    )


def _check_targets(who: str, reference: Scores, run: Scores) -> None:
    """The label protocol: an entry that one calls unknown and the other absent changes every number."""
    places = (reference.targets != run.targets).nonzero()
    if not len(places):
        return
    pairs = torch.stack([targets[tuple(places.T)] for targets in (reference.targets, run.targets)], 1)
    kinds = ", ".join(
        f"{count:,} {'entry' if count == 1 else 'entries'} {_LABELS[a]} in the first and {_LABELS[b]} in the second"
        for (a, b), count in zip(
            *(part.tolist() for part in torch.unique(pairs, dim=0, return_counts=True)), strict=True
        )
    )
    image, k = places[0].tolist()
    name = reference.images[image] if len(reference.images) else f"number {reference.index[image]}"
    raise MlclError(
        f"{who} have other labels for the same images: {kinds}; the first is image {name}, "
        f"class {reference.classes[k]}{_data(reference, run)}"
    )


def _check_definitions(who: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in {**_fixed(before), **_fixed(after)}:
        if before.get(name) != after.get(name):
            raise MlclError(
                f"{who} are measured with another {name}: {before.get(name, 'none')} against "
                f"{after.get(name, 'none')}; run mlcl test again with the same settings"
            )


def _data(reference: Scores, run: Scores) -> str:
    """Which settings of the data differ, as far as both configurations are there: usually the reason."""
    keys = ("data", "data.difficult", "data.empty_images", "data.val_fraction", "data.split_seed")
    found = [d for d in differences(reference.config, run.config) if d[0] in keys or d[0].startswith("data.test")]
    return "".join(f"; {key} is {before} against {after}" for key, before, after in found)


def _fixed(definitions: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in definitions.items() if name not in _OF_THE_METHOD}
