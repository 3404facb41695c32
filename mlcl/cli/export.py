"""The verb export: one file that takes pixels and gives probabilities, without mlcl."""

import argparse
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing

SUMMARY = "ONNX or torch.export file: pixels in, probabilities out"
_ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of export."""
    shared.add_checkpoint(parser)
    parser.add_argument("--format", required=True, choices=tuple(_ENDINGS), help="of the file")
    parser.add_argument("--output", required=True, metavar="FILE", help="model.onnx or model.pt2")
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="PATH",
        help="folders, files or a list (@FILE) to check the file with (default: test images of the run's data)",
    )  # fmt: skip
    shared.add_root(parser)


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    shared.checkpoint(options)
    shared.check_output(Path(options.output), _ENDINGS[options.format])
    options.images = shared.images(options.images)


def run(options: argparse.Namespace) -> int:
    """Export and check."""
    with importing():
        from mlcl.inference import export
        from mlcl.system import console

    console.quieten()
    export.export(
        shared.checkpoint(options),
        Path(options.output),
        options.format,
        images=options.images,
        root=options.data_root,
        imports=tuple(options.imports),
    )
    return 0
