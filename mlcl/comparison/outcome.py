"""The comparison itself: every method's metrics over its runs, and its gain over the baseline with error bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mlcl.analysis.frequency import groups
from mlcl.comparison import frequency, localisation, notes
from mlcl.comparison.bootstrap import image_weights, resampled_ap, resampled_mean, widening
from mlcl.comparison.folders import Method
from mlcl.comparison.scores import align, common_definitions, evaluate, once, variant
from mlcl.errors import MlclError
from mlcl.runs.results import Results, read

LEVEL = 0.95


@dataclass(frozen=True)
class Gain:
    """A method's mAP, and the AP of each class, minus the baseline's; shares, not percent."""

    value: float
    low: float  # of the 95 % interval
    high: float
    below: float  # share of the resamples in which the difference is below 0
    class_values: Tensor  # (K,) float64, NaN for a class without AP
    class_low: Tensor
    class_high: Tensor

    @property
    def verdict(self) -> str:
        """The conclusion at the 95 % level."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference at the 95 % level"


@dataclass(frozen=True)
class Result:
    """One method over its n runs."""

    name: str
    values: dict[str, Tensor]  # metric: (n,) float64
    class_ap: Tensor  # (n, K) float64
    gain: Gain | None  # None for the baseline itself
    looks: dict[str, tuple[Tensor, Gain | None]]  # measure of localisation: (n,), and the gain; empty without
    groups: dict[str, tuple[Tensor, Gain | None]]  # head, medium, tail: mAP (n,), and the gain; empty without


@dataclass(frozen=True)
class Comparison:
    """The content of the tables, the figure and the page; the baseline is the first result."""

    split: str
    images: int
    classes: list[str]
    positives: list[int]
    measured: list[bool]  # whether a class has an AP: it is present in some images, and known to be absent in some
    borders: tuple[int, int] | None  # of tail and head; None where the runs have no such groups in common
    definitions: dict[str, Any]
    results: list[Result]
    notes: list[str]
    resamples: int
    seed: int


def compare(
    methods: Sequence[Method], resamples: int = 1000, seed: int = 0, left_out: Sequence[str] = ()
) -> Comparison:
    """Read the runs, refuse what cannot be compared, and bootstrap over images and seeds.

    The baseline is the first method; ``left_out`` are further notes, such as runs without scores.
    """
    reference = read(methods[0].runs[0])
    found = [once([align(read(folder), reference) for folder in method.runs]) for method in methods]
    runs, left_out = [own for own, _ in found], [*left_out, *chain(*(lines for _, lines in found))]
    every = [*chain(*runs)]
    definitions = common_definitions(every)
    positives = (reference.targets == 1).sum(0)
    measured = (positives > 0) & (reference.targets == 0).any(0)
    if not measured.any():
        raise MlclError("no class is present in some images and absent in others, so there is no AP to compare")
    resampled = _resampled(runs, resamples, seed)
    for drawn in resampled:
        drawn[:, ~measured] = torch.nan
    results: list[Result] = []
    looks = _looks(runs, resamples, seed)
    seen = None if frequency.not_compared(every) else reference.frequency
    columns = {name: torch.from_numpy(own & measured) for name, own in groups(*seen).items()} if seen else {}
    for method, members, drawn, looked in zip(methods, runs, resampled, looks, strict=True):
        evaluated = [evaluate(run) for run in members]
        values = {name: torch.stack([e.values[name] for e in evaluated]) for name in evaluated[0].values}
        class_ap = torch.stack([e.class_ap for e in evaluated])
        differences = (class_ap.mean(0) - results[0].class_ap.mean(0), drawn - resampled[0]) if results else None
        by_group = {
            name: (class_ap[:, own].mean(1), _gain(*(part[..., own] for part in differences)) if differences else None)
            for name, own in columns.items()
            if own.any()
        }
        gain = _gain(*differences) if differences else None
        results.append(Result(method.name, values, class_ap, gain, looked, by_group))
    return Comparison(
        split=reference.split,
        images=len(reference.targets),
        classes=reference.classes,
        positives=positives.tolist(),
        measured=measured.tolist(),
        borders=seen[1] if seen else None,
        definitions=definitions,
        results=results,
        notes=[*left_out, *notes.of({method.name: own for method, own in zip(methods, runs, strict=True)})],
        resamples=resamples,
        seed=seed,
    )


def _resampled(runs: list[list[Results]], resamples: int, seed: int) -> list[Tensor]:
    """(B, K) of every method: the AP of each class, mean over resampled runs, on resampled images."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    bars = track(list(chain(*runs)), "bootstrap, run by run", console=console, transient=True, disable=hidden)
    drawn = []
    for run in bars:
        scores, targets = torch.from_numpy(run.logits), torch.from_numpy(run.targets)
        drawn.append(resampled_ap(scores, targets, variant(run)[0], image_weights(len(targets), resamples, seed)))
    class_ap = iter(drawn)
    generator = np.random.default_rng([seed, 1])
    wider = widening([len(members) for members in runs], LEVEL)
    return [resampled_mean(torch.stack([next(class_ap) for _ in members]), generator, wider) for members in runs]


def _looks(runs: list[list[Results]], resamples: int, seed: int) -> list[dict[str, tuple[Tensor, Gain | None]]]:
    """Of each method, the measures of localisation over its runs, and their gains over the baseline's."""
    looks: list[dict[str, tuple[Tensor, Gain | None]]] = [{} for _ in runs]
    if localisation.not_compared([*chain(*runs)]):
        return looks
    images, wider = len(runs[0][0].index), widening([len(members) for members in runs], LEVEL)
    for measure in localisation.COMPARED:
        generator = np.random.default_rng([seed, 1])
        baseline: tuple[Tensor, Tensor] | None = None
        for looked, members in zip(looks, runs, strict=True):
            means = torch.stack([localisation.class_means(run, measure) for run in members])
            drawn = [localisation.resampled(run, measure, image_weights(images, resamples, seed)) for run in members]
            mean, spread = means.mean(0), resampled_mean(torch.stack(drawn), generator, wider)
            gain = _gain(mean - baseline[0], spread - baseline[1]) if baseline else None
            baseline = baseline or (mean, spread)
            looked[measure] = means.nanmean(1), gain
    return looks


def _gain(observed: Tensor, resampled: Tensor) -> Gain:
    """From the differences per class: (K,) as measured and (B, K) resampled."""
    # Equal runs give means that differ in the last bit: 1e-17 is neither above nor below 0.
    observed, resampled = observed.round(decimals=12), resampled.round(decimals=12)
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    overall = resampled.nanmean(1)  # all runs have the same labels, so the same classes are left out of both mAPs
    low, high = overall.nanquantile(tails).tolist()
    below = float((overall < 0).double().mean())
    return Gain(float(observed.nanmean()), low, high, below, observed, *resampled.nanquantile(tails, dim=0))
