"""Notes under the tables: no reasons to refuse, but facts that change what the numbers mean."""

from collections import Counter
from itertools import chain
from typing import Any

from mlcl.comparison import frequency, localisation
from mlcl.comparison.folders import shown
from mlcl.runs.record import differences
from mlcl.runs.results import Results

# differences() leaves the trainer's settings out; these change what is trained.
_TRAINING = (
    *("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("limit_train_batches", "devices", "num_nodes"),
)
# Of simulated pairs two points of mAP apart (sd over seeds one point), 5 runs each find 61 %, 3 runs 31 %.
_ENOUGH = 5
_MACHINE = ("seed_everything", "data.root", "data.num_workers", "data.download")


def of(methods: dict[str, list[Results]]) -> list[str]:
    """One line for each fact; the keys are the names of the methods."""
    lines = [line for name, runs in methods.items() for line in (*_settings(name, runs), *_decisions(name, runs))]
    single = [name for name, runs in methods.items() if len(runs) == 1]
    if single:
        lines.append(f"{', '.join(single)}: one run only, so the interval knows nothing of the variation over seeds")
    if few := [name for name, runs in methods.items() if 1 < len(runs) < _ENOUGH]:
        lines.append(
            f"{', '.join(few)}: fewer than {_ENOUGH} runs tell little of their spread, so the interval is wide"
        )
    every = [*chain(*methods.values())]
    if any(run.localisation is not None for run in every) and (reason := localisation.not_compared(every)):
        lines.append(f"no comparison of where classes look: {reason}")
    elif other := [shown(run.folder) for run in every[1:] if localisation.other_map(every[0], run)]:
        where = f"{shown(every[0].folder)} and {other[0]}"
        lines.append(f"{where} look at maps of other sizes, so their chance differs; gain takes it into account")
    if any(run.frequency is not None for run in every) and (reason := frequency.not_compared(every)):
        lines.append(f"no comparison of head, medium and tail classes: {reason}")
    if len(methods) > 2:
        lines.append("every interval is for its method alone: of many methods some differ by chance")
    first, *_ = methods.values()
    classes, present, absent = first[0].classes, (first[0].targets == 1).any(0), (first[0].targets == 0).any(0)
    if empty := [classes[k] for k in (~present).nonzero()[0]]:
        lines.append(f"no positive, so no AP, and left out of all means: {', '.join(empty)}")
    if constant := [classes[k] for k in (present & ~absent).nonzero()[0]]:
        lines.append(f"nothing known to be absent, so no AP, and left out of mAP: {', '.join(constant)}")
    return lines


def _settings(name: str, runs: list[Results]) -> list[str]:
    """Runs of one method that are not repeats of each other."""
    lines = []
    keys = {key: run for run in runs[1:] for key in _differing(runs[0].config, run.config)}
    if keys:
        lines.append(
            f"{name}: its runs differ in more than the seed: {', '.join(keys)} "
            f"({shown(runs[0].folder)} against {shown(next(iter(keys.values())).folder)})"
        )
    seeds = Counter(run.config.get("seed_everything") for run in runs)
    if twice := [seed for seed, count in seeds.items() if count > 1 and isinstance(seed, int) and seed is not True]:
        lines.append(f"{name}: seed {', '.join(map(str, twice))} more than once, so the spread is too small")
    return lines


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    trainers = before.get("trainer", {}), after.get("trainer", {})
    training = [f"trainer.{key}" for key in _TRAINING if trainers[0].get(key) != trainers[1].get(key)]
    return [key for key, *_ in differences(before, after) if key not in _MACHINE] + training


def _decisions(name: str, runs: list[Results]) -> list[str]:
    """Calibrated thresholds and temperatures, and mirror images."""
    parts = []
    temperatures = [run.temperature for run in runs]
    if any(value != 1 for value in temperatures):
        parts.append(f"temperature {_span(temperatures)}")
    if calibrated := [
        t for run in runs if isinstance(run.definitions.get("threshold"), str) for t in run.thresholds.tolist()
    ]:
        parts.append(f"one threshold per class, {_span(calibrated)}")
    if mirrored := sum(run.summary.get("tta") == "flip" for run in runs):
        parts.append(f"tta flip in {mirrored} of {len(runs)} runs")
    return [f"{name}: {' and '.join(parts)}"] if parts else []


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
