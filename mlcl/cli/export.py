"""The verb export: one file that takes pixels and gives probabilities, without mlcl; or the weights in a folder."""

import argparse
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError

SUMMARY = "ONNX or torch.export file: pixels in, probabilities out; or a folder of safetensors"
_WEIGHTS = "safetensors"
_ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of export."""
    shared.add_checkpoint(parser)
    parser.add_argument("--format", required=True, choices=(*_ENDINGS, _WEIGHTS), help="of the file")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="model.onnx or model.pt2; for safetensors a new folder"
    )
    parser.add_argument(
        "--images", nargs="+", default=[], metavar="PATH",
        help="folders, files or a list (@FILE) to check the file with (default: test images of the run's data)",
    )  # fmt: skip
    shared.add_root(parser)


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    shared.checkpoint(options)
    if options.format == _WEIGHTS:
        _check_folder(options)
        return
    shared.check_output(Path(options.output), _ENDINGS[options.format])
    options.images = shared.images(options.images)


def _check_folder(options: argparse.Namespace) -> None:
    output = Path(options.output)
    if options.images or options.data_root:
        raise MlclError("--images and --data.root: weights are compared one by one, no picture is needed")
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise MlclError(f"--output {output} is there already; give a new folder")


def run(options: argparse.Namespace) -> int:
    """Export and check."""
    with importing():
        from mlcl.inference import export, weights
        from mlcl.system import console

    console.quieten()
    if options.format == _WEIGHTS:
        weights.export(shared.checkpoint(options), Path(options.output), tuple(options.imports))
        return 0
    export.export(
        shared.checkpoint(options),
        Path(options.output),
        options.format,
        images=options.images,
        root=options.data_root,
        imports=tuple(options.imports),
    )
    return 0
