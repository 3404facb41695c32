"""The verb report: a run's results as one page."""

import argparse
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError
from mlcl.report import locate

SUMMARY = "one self-contained HTML page about a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of report."""
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="a run or test folder, or runs/NAME for the newest run in it"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="the page (default: report.html in the run)")
    shared.add_root(parser)
    parser.add_argument(
        "--max_images", type=shared.whole, default=400, metavar="N",
        help="images sent through the network for attention maps and embeddings; 0: none (default: 400)",
    )  # fmt: skip
    shared.add_import(parser)


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    locate.results_in(options.run)
    if options.output is not None:
        shared.check_output(options.output)
    if options.data_root is not None and "://" not in options.data_root and not Path(options.data_root).is_dir():
        raise MlclError(f"--data.root {options.data_root}: no such folder")


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    with importing():
        from mlcl.report import page
        from mlcl.system import console

    console.quieten()
    page.write(options.run, options.output, options.data_root, options.max_images, tuple(options.imports))
    return 0
