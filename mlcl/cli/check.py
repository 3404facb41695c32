"""The verb check: is a dataset what a training expects, told before the training."""

import argparse
import os
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.command_line import values
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError

SUMMARY = "read every image and label of a dataset once, and say what is wrong with it"
PASSED_ON = ("--config", "-c", "--data", "--data.", "--import")  # to the parser of fit, which knows the datasets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of check; what PASSED_ON names is listed for the help."""
    parser.add_argument("--config", metavar="FILE", help="YAML, as for mlcl fit; several are laid over each other")
    parser.add_argument(
        "--data",
        metavar="CLASS",
        help="COCO2014, VOC2007, CSVDataset, ... (mlcl fit --help), or yours as file.Class",
    )
    parser.add_argument("--data.root", metavar="DIR", help="where it lies")
    parser.add_argument("--data.num_workers", metavar="N", help="processes that read (default: as for training)")
    parser.add_argument("--data.KEY", metavar="VALUE", help="any other setting of the dataset, as for mlcl fit")
    parser.add_argument("--output", metavar="FILE", help="FILE.csv for the list of all that was found")
    shared.add_import(parser)


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what is wrong with the command line itself."""
    files = [file for flag in PASSED_ON[:2] for file in values(options.passed_on, flag)]
    if not any((*files, *values(options.passed_on, "--data"))):
        raise MlclError("check needs --config FILE or --data CLASS; mlcl check --help shows the options")
    for file in files:
        if not file.lstrip().startswith("{") and not os.path.isfile(file):
            raise MlclError(f"--config {file}: no such file")
    if options.output is not None:
        shared.check_output(Path(options.output), ".csv")


def run(options: argparse.Namespace) -> int:
    """Check; 1 if an image could not be read."""
    with importing():
        from jsonargparse import ArgumentParser

        from mlcl.cli.settings import parse
        from mlcl.data import MultiLabelDataModule
        from mlcl.data.check import check as check_dataset
        from mlcl.system import console

    console.quieten()
    parsed = parse("check", options.passed_on).config.data
    parser = ArgumentParser(exit_on_error=False)  # of the dataset alone: the one of fit would also make the network
    parser.add_subclass_arguments(MultiLabelDataModule, "data", required=True)
    data = parser.instantiate_classes(parser.parse_object({"data": parsed})).data
    return check_dataset(data, Path(options.output) if options.output else None)
