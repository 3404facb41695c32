"""The verb check: is a dataset what a training expects, told before the training."""

import argparse
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing

SUMMARY = "read every image and label of a dataset once, and say what is wrong with it"
PASSED_ON = shared.OF_DATASET


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of check; what PASSED_ON names is listed for the help."""
    shared.add_dataset(parser)
    parser.add_argument("--output", metavar="FILE", help="FILE.csv for the list of all that was found")
    shared.add_import(parser, "--data")


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what is wrong with the command line itself."""
    shared.check_dataset("check", options.passed_on)
    if options.output is not None:
        shared.check_output(Path(options.output), ".csv")


def run(options: argparse.Namespace) -> int:
    """Check; 1 if an image could not be read."""
    with importing():
        from mlcl.cli.settings import dataset
        from mlcl.data.check import check as check_dataset
        from mlcl.system import console

    console.quieten()
    data = dataset("check", options.passed_on)
    return check_dataset(data, Path(options.output) if options.output else None)
