"""The methods and runs that the folders on the command line mean; reads no file, so that mistakes end at once."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlcl.errors import MlclError

SCORES = "scores.npz"


@dataclass(frozen=True)
class Method:
    """A name and the folders of its runs, each with a ``scores.npz``."""

    name: str
    runs: tuple[Path, ...]


def find(folders: Sequence[Path], baseline: Path | None = None) -> tuple[list[Method], list[str]]:
    """Group runs by method: by the folder above ``version_<n>``, or, if all share it, each run by itself.

    A folder is that of a run, of a test in it, or of several runs. The baseline is by default the first; if its method
    is among ``folders``, the runs given there are taken.

    Returns:
        The methods, the baseline first, and a line for each run that was left out.
    """
    notes: list[str] = []
    found = [_runs(folder, notes) for folder in folders]
    first = found[0] if baseline is None else _runs(baseline, notes)
    runs = [run for group in found for run in group]
    shared = len({method_of(run) for run in (*first, *runs)}) == 1 and all(len(group) == 1 for group in (first, *found))
    owners = {run: run if shared else method_of(run) for run in (*first, *runs)}
    groups: dict[Path, list[Path]] = {owners[first[0]]: []}
    for run in dict.fromkeys(runs):
        groups.setdefault(owners[run], []).append(run)
    groups[owners[first[0]]] = groups[owners[first[0]]] or first
    if len(groups) < 2:
        raise MlclError(f"only one method was given, {shown(next(iter(groups)))}: name two, such as runs/bce runs/asl")
    return [Method(_name(folder, groups), tuple(members)) for folder, members in groups.items()], sorted(set(notes))


def members(folders: Sequence[Path], output: Path) -> tuple[list[Path], list[str]]:
    """The runs of an ensemble, at least two and each once, and a line for each that was left out.

    Its own earlier results in ``output``, which ``runs/*`` names too, are no member.
    """
    notes: list[str] = []
    given = [folder for folder in folders if folder.resolve() != output.resolve()]
    found = [run for folder in given for run in _runs(folder, notes)]
    owners: dict[Path, Path] = {}
    for scores in found:
        if (run := run_of(scores)) in owners:
            raise MlclError(f"{shown(run)} is given twice, by {shown(owners[run])} and {shown(scores)}")
        owners[run] = scores
    if len(found) < 2:
        raise MlclError(f"an ensemble has two members or more, not {len(found)}; name them, such as runs/bce runs/asl")
    return found, notes


def method_of(scores: Path) -> Path:
    """The folder that names the method: the one above ``version_<n>``, or the run's own if it was moved."""
    run = run_of(scores)
    return run.parent if re.fullmatch(r"version_\d+", run.name) else run


def run_of(scores: Path) -> Path:
    """The run that results belong to: their folder, or the one above a later test's."""
    return scores.parent if re.fullmatch(r"(test|validate)_\d+", scores.name) else scores


def shown(folder: Path) -> str:
    """A path relative to the current folder, if it is near."""
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith(os.path.join("..", "..")) else relative


def _runs(folder: Path, notes: list[str]) -> list[Path]:
    """The folders with scores that one argument means; adds a note for each run without."""
    if not folder.is_dir():
        problem = "is a file; give the run's folder" if folder.exists() else "no such folder"
        raise MlclError(f"{folder}: {problem}, such as runs/bce or runs/bce/version_0")
    folder = folder.resolve()
    if own := _scores(folder):
        return [own]
    versions = _numbered(folder, "version_")
    found = [own for version in versions if (own := _scores(version))]
    if not found:
        raise MlclError(
            f"{shown(folder)}: no {SCORES} in it or in its version_<n>; mlcl fit writes it after training, and so does "
            "mlcl test --ckpt_path FILE"
        )
    notes += [f"{shown(version)} is left out: it has no {SCORES}" for version in versions if not _scores(version)]
    return found


def _scores(run: Path) -> Path | None:
    """The run itself, or its newest test if training wrote no scores."""
    return next((f for f in (run, *reversed(_numbered(run, "test_"))) if (f / SCORES).is_file()), None)


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """Subfolders ``<prefix><n>`` by number: 10 comes after 9."""
    numbers = {path: path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*") if path.is_dir()}
    return sorted((path for path, n in numbers.items() if n.isdigit()), key=lambda path: int(numbers[path]))


def _name(folder: Path, others: dict[Path, list[Path]]) -> str:
    """The shortest end of the path that is unique among the methods."""
    for depth in range(1, len(folder.parts)):
        if sum(other.parts[-depth:] == folder.parts[-depth:] for other in others) == 1:
            return "/".join(folder.parts[-depth:])
    return str(folder)
