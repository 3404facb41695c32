"""The verb check: is a dataset what a training expects, told before the training."""

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError

SUMMARY = "read every image and label of a dataset once, and say what is wrong with it"
PASSED_ON = ("--config", "-c", "--data", "--data.")  # to the parser of fit, which knows the datasets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of check; what PASSED_ON names is listed for the help."""
    parser.add_argument("--config", metavar="FILE", help="YAML, as for mlcl fit; several are laid over each other")
    parser.add_argument(
        "--data", metavar="CLASS", help="COCO2014, VOC2007, VOC2012, CSVDataset, Demo, or yours as file.Class"
    )
    parser.add_argument("--data.root", metavar="DIR", help="where it lies")
    parser.add_argument("--data.num_workers", metavar="N", help="processes that read (default: as for training)")
    parser.add_argument("--data.KEY", metavar="VALUE", help="any other setting of the dataset, as for mlcl fit")
    parser.add_argument("--output", metavar="FILE", help="FILE.csv for the list of all that was found")
    shared.add_import(parser)


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    given: list[str] = options.passed_on
    if not any(argument.split("=")[0] in ("--config", "-c", "--data") for argument in given):
        raise MlclError("check needs --config FILE or --data CLASS; mlcl check --help shows the options")
    pairs = zip(given, [*given[1:], ""], strict=True)
    files = [
        argument.partition("=")[2] or after for argument, after in pairs if argument.split("=")[0] in PASSED_ON[:2]
    ]
    for file in files:
        if not file.lstrip().startswith("{") and not os.path.isfile(file):
            raise MlclError(f"--config {file}: no such file")
    if options.output is not None:
        output = Path(options.output)
        if output.suffix.lower() != ".csv" or output.is_dir():
            raise MlclError(f"--output {output}: the name must end in .csv")
        if output.parent.exists() and not os.access(output.parent, os.W_OK):
            raise MlclError(f"--output {output}: nothing can be written there")


def run(options: argparse.Namespace) -> int:
    """Check; 1 if an image could not be read."""
    with importing():
        from mlcl.cli import training
        from mlcl.data.check import check as check_dataset
        from mlcl.system import console

    for module in options.imports:
        try:
            import_module(module)
        except ImportError as error:
            raise MlclError(f"--import {module}: {error}") from error

    class DataOnly(training.CLI):
        """The parser, the layers and the messages of fit; of all that it makes, the dataset alone."""

        def instantiate_classes(self) -> None:
            from jsonargparse import ArgumentParser

            from mlcl.data import MultiLabelDataModule

            parser = ArgumentParser(exit_on_error=False)
            parser.add_subclass_arguments(MultiLabelDataModule, "data", required=True)
            self.datamodule: Any = parser.instantiate_classes(parser.parse_object({"data": self.config.data})).data

    console.quieten()
    data = DataOnly("check", options.passed_on).datamodule
    return check_dataset(data, Path(options.output) if options.output else None)
