"""The verb convert: a checkpoint of a paper's own code becomes one of mlcl."""

import argparse
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError

SUMMARY = "a checkpoint of CSRA's, ML-Decoder's, Query2Label's, SADCL's or MulCon's own code becomes one of mlcl"
PASSED_ON = (*shared.OF_DATASET, "--model.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of convert; what PASSED_ON names is listed for the help."""
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="what their code saved; of MulCon ..._net_A.pth"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="FILE.ckpt for predict, test, fit --model.init_from"
    )
    shared.add_dataset(parser)
    parser.add_argument(
        "--model.KEY", metavar="VALUE", help="the network that the file is of, as for mlcl fit: see docs/interop.md"
    )
    shared.add_import(parser, "--data")


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what is wrong with the command line itself."""
    shared.check_dataset("convert", options.passed_on)
    shared.check_output(Path(options.output), ".ckpt")
    if not Path(options.weights).is_file():
        raise MlclError(f"--weights {options.weights}: no such file")


def run(options: argparse.Namespace) -> int:
    """Make the network and the dataset, and write the checkpoint."""
    with importing():
        import torch

        from mlcl.cli.settings import parse
        from mlcl.runs import official, record
        from mlcl.system import console
        from mlcl.system.files import write_whole

    console.quieten()
    settings = parse("convert", options.passed_on)
    made = settings.parser.instantiate_classes(settings.config)
    network, data = made.model.network, made.data
    interpolation = data.interpolation or network.interpolation
    console.say(official.load(network, Path(options.weights), list(data.classes), data.image_size, interpolation))
    config = {key: value for key, value in settings.as_dict().items() if key not in ("ckpt_path", "import")}
    entries = record.make(config, data, None)
    content = record.weights_only(network.state_dict(), entries)
    write_whole(Path(options.output), lambda path: torch.save(content, path))
    return 0
