"""The verb ensemble: the mean of several runs' scores, without running a network."""

import argparse
import json
from pathlib import Path

from mlcl.cli.verbs import importing
from mlcl.comparison import folders
from mlcl.errors import MlclError

SUMMARY = "the mean of several runs, from the scores they left"
_OF_RUNS = folders.SCORES, "config.yaml", "checkpoints", "version_*", "*/version_*"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ensemble."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path,
        help="folders of the members, two or more: a run (runs/bce/version_0), a test in it, or all runs (runs/bce)",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", type=Path, required=True,
        help="folder for metrics.json, per_class.csv and scores.npz, which mlcl report and mlcl compare take",
    )  # fmt: skip


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    if options.output.exists() and not options.output.is_dir():
        raise MlclError(f"--output {options.output} is a file; give a folder")
    if any(map(any, map(options.output.glob, _OF_RUNS))) and not _is_ours(options.output):
        raise MlclError(f"--output {options.output} is the folder of a run, or of several; give one of its own")
    folders.members(options.runs, options.output)


def run(options: argparse.Namespace) -> int:
    """Put together, write, print."""
    with importing():
        from mlcl.comparison.ensemble import ensemble
        from mlcl.system.console import say

    members, left_out = folders.members(options.runs, options.output)
    ensemble(members, options.output)
    for line in left_out:
        say(line)
    return 0


def _is_ours(output: Path) -> bool:
    """Whether an earlier ensemble lies there."""
    try:
        return "members" in json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
