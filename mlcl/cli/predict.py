"""The verb predict: a folder of images in, one file of scores out."""

import argparse
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError

SUMMARY = "labels and scores for your own images, in one file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of predict."""
    shared.add_checkpoint(parser)
    parser.add_argument(
        "--images", required=True, nargs="+", metavar="PATH",
        help="folders (with all below them), files, globs, or @FILE: a text file with one of these a line",
    )  # fmt: skip
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="FILE.csv or FILE.jsonl; for --writer voc2012 a folder"
    )
    parser.add_argument("--top", type=shared.positive, metavar="N", help="write the N highest scores, not all")
    parser.add_argument(
        "--writer", choices=("voc2012",), help="files for the PASCAL server, of the ids in ImageSets/Main/test.txt"
    )
    parser.add_argument("--batch_size", type=shared.positive, default=32, metavar="N", help="per device (default: 32)")
    parser.add_argument(
        "--num_workers", type=shared.whole, default=4, metavar="N", help="loader processes (default: 4)"
    )
    shared.add_reading(parser)
    parser.add_argument("--accelerator", default="auto", metavar="KIND", help="auto, cpu, gpu (default: auto)")
    parser.add_argument("--devices", default="1", metavar="N", help="how many of them, or auto (default: 1)")
    parser.add_argument(
        "--precision",
        default="32-true",
        metavar="KIND",
        help="32-true, bf16-mixed, 16-mixed; coarser is faster (default: 32-true)",
    )


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    shared.checkpoint(options)
    options.images = shared.images(options.images)
    if options.writer:
        if options.top:
            raise MlclError(f"--top: the files of --writer {options.writer} hold every score")
        return
    shared.check_output(Path(options.output), ".csv", ".jsonl")


def run(options: argparse.Namespace) -> int:
    """Predict; 1 if an image could not be read."""
    with importing():
        from mlcl import inference
        from mlcl.data.images import reading_of
        from mlcl.inference import prediction
        from mlcl.system import console

    console.quieten()
    model = inference.load(shared.checkpoint(options), "cpu", tuple(options.imports))
    model.reading |= reading_of(vars(options))
    return prediction.predict(
        model,
        options.images,
        Path(options.output),
        writer=options.writer,
        top=options.top,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        accelerator=options.accelerator,
        devices=options.devices,
        precision=options.precision,
    )
