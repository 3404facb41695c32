"""The verb pack: a dataset as few large files, for a slow disk, an object store, or machines without a shared disk."""

import argparse
import os
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError

SUMMARY = "write a dataset as a few large files, to a folder or an object store; --data Streamed reads them"
PASSED_ON = shared.OF_DATASET
_QUALITY = 95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of pack; what PASSED_ON names is listed for the help."""
    shared.add_dataset(parser)
    parser.add_argument(
        "--output", required=True, metavar="DIR|URL", help="a new folder, or a URL such as s3://bucket/prefix"
    )
    parser.add_argument(
        "--side", type=shared.positive, metavar="N",
        help="make the shorter side of larger pictures N pixels, as upright JPEGs (default: all files as they are)",
    )  # fmt: skip
    parser.add_argument(
        "--quality", type=shared.positive, metavar="N", help=f"of these JPEGs, 1 to 100 (default: {_QUALITY})"
    )
    parser.add_argument(
        "--chunk_mb", type=shared.positive, default=64, metavar="N",
        help="put files of N million bytes together in a chunk, which is fetched as a whole (default: 64)",
    )  # fmt: skip
    shared.add_import(parser, "--data")


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what is wrong with the command line itself."""
    shared.check_dataset("pack", options.passed_on)
    if options.quality is not None and options.side is None:
        raise MlclError("--quality needs --side: without it, files are packed as they are")
    if (options.quality or 0) > 100:
        raise MlclError(f"--quality {options.quality}: at most 100")
    if options.chunk_mb > 2000:
        raise MlclError(f"--chunk_mb {options.chunk_mb}: at most 2000")
    if "://" not in options.output and os.path.lexists(options.output) and not Path(options.output).is_dir():
        raise MlclError(f"--output {options.output} is no folder")


def run(options: argparse.Namespace) -> int:
    """Pack."""
    with importing():
        from mlcl.cli.settings import dataset
        from mlcl.data.packing import pack
        from mlcl.system import console

    console.quieten()
    data = dataset("pack", options.passed_on)
    pack(data, options.output, options.side, options.quality or _QUALITY, options.chunk_mb * 1_000_000)
    return 0
