"""The verb compare: several methods over their seeds, from the scores their runs left."""

import argparse
import os
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.comparison import folders
from mlcl.errors import MlclError

SUMMARY = "compare runs over seeds, with error bars"
_FEWEST = 100  # with fewer resamples, the 2.5 % tail is one or two of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of compare."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path,
        help="folders of two methods or more: one run (runs/bce/version_0), a test in it, or all runs (runs/bce)",
    )  # fmt: skip
    parser.add_argument(
        "--baseline", metavar="RUN", type=Path, help="what the others are compared with (default: the first RUN)"
    )
    parser.add_argument(
        "--resamples", metavar="B", type=shared.positive, default=1000,
        help=f"how often images and runs are drawn anew, {_FEWEST} or more (default: 1000)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="S", type=shared.whole, default=0,
        help="of the resampling; the same seed gives the same numbers (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("runs/compare"),
        help="folder for compare.md, compare.html and per_class_gains.png (default: runs/compare)",
    )  # fmt: skip


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    if options.resamples < _FEWEST:
        raise MlclError(f"--resamples {options.resamples}: too few for a 95 % interval; give {_FEWEST} or more")
    if options.output.exists() and not options.output.is_dir():
        raise MlclError(f"--output {options.output} is a file; give a folder")
    folders.find(_given(options), options.baseline)


def run(options: argparse.Namespace) -> int:
    """Compare, print, write."""
    with importing():
        from mlcl.comparison import outcome, page

    methods, left_out = folders.find(_given(options), options.baseline)
    comparison = outcome.compare(methods, options.resamples, options.seed, left_out)
    written = page.write(comparison, options.output)  # first: a closed pipe must not cost the files
    page.show(comparison)
    print(f"written: {', '.join(map(os.path.relpath, written))}")
    return 0


def _given(options: argparse.Namespace) -> list[Path]:
    """The folders without our own output, which ``runs/*`` names too."""
    output = options.output.resolve()
    return [run for run in options.runs if run.resolve() != output] or options.runs
