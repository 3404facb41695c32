"""The verb predict: a folder of images in, one file of scores out."""

import argparse
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError

_ONNX = ".onnx"
SUMMARY = "labels and scores for your own images, in one file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of predict."""
    shared.add_checkpoint(parser, "; or the .onnx file of mlcl export, which needs no torch")
    parser.add_argument(
        "--images", required=True, nargs="+", metavar="PATH",
        help="folders (with all below them), files, globs; URLs of objects or of all below a prefix (s3://BUCKET/...); "
        "packs of mlcl pack, folder by folder as packed (train, val, test), each in the order of its chunks; or @FILE: "
        "a text file with one of these a line",
    )  # fmt: skip
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="FILE.csv or FILE.jsonl; for --writer voc2012 a folder"
    )
    parser.add_argument("--top", type=shared.positive, metavar="N", help="write the N highest scores, not all")
    parser.add_argument(
        "--writer", choices=("voc2012",), help="files for the PASCAL server, of the ids in ImageSets/Main/test.txt"
    )
    parser.add_argument(
        "--energy", action="store_true",
        help="also write how familiar a picture looks (higher is more familiar), and whether it is, if the checkpoint "
        "comes from mlcl calibrate --false_alarms",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=shared.positive, default=32, metavar="N", help="per device (default: 32)")
    parser.add_argument(
        "--num_workers",
        type=shared.whole,
        default=4,
        metavar="N",
        help="loader processes (default: 4; for an .onnx file none)",
    )
    shared.add_reading(parser)
    shared.add_tta(parser)
    parser.add_argument("--accelerator", default="auto", metavar="KIND", help="auto, cpu, gpu (default: auto)")
    parser.add_argument(
        "--devices", default="1", metavar="N",
        help="how many of them, or auto (default: 1); under torchrun and srun all processes that are there are used",
    )  # fmt: skip
    parser.add_argument(
        "--precision",
        default="32-true",
        metavar="KIND",
        help="32-true, bf16-mixed, 16-mixed; coarser is faster (default: 32-true)",
    )


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    source = shared.checkpoint(options)
    options.images = shared.images(options.images, urls=True)
    if "://" in options.output:
        raise MlclError(f"--output {options.output}: give a file on this machine, or on a disk that all nodes share")
    if source.suffix == ".pt2":
        raise MlclError(
            f"--ckpt_path {source}: predict runs checkpoints and .onnx files; torch.export.load reads this one"
        )
    if source.suffix == _ONNX:
        _check_onnx(options)
    if options.writer:
        if options.top:
            raise MlclError(f"--top: the files of --writer {options.writer} hold every score")
        if options.energy:
            raise MlclError(f"--energy: the files of --writer {options.writer} hold scores only")
        return
    shared.check_output(Path(options.output), ".csv", ".jsonl")


def _check_onnx(options: argparse.Namespace) -> None:
    """Refuse what only a checkpoint can do."""
    if options.energy:
        raise MlclError("--energy: an ONNX file gives probabilities, but energy comes from logits; give the checkpoint")
    possible = {
        "accelerator": ("auto", "cpu"),
        "devices": ("1", "auto"),
        "precision": ("32-true",),
        "imports": ([],),
        "tta": (None,),
    }
    for name, values in possible.items():
        given = getattr(options, name)
        if given not in values:
            flag, value = ("import", given[0]) if name == "imports" else (name, given)
            raise MlclError(f"--{flag} {value}: an ONNX file is run on the CPU as it is; this needs the checkpoint")


def run(options: argparse.Namespace) -> int:
    """Predict; 1 if an image could not be read."""
    source = shared.checkpoint(options)
    common = {"writer": options.writer, "top": options.top, "batch_size": options.batch_size}
    if source.suffix == _ONNX:
        with importing():
            from mlcl.data.decoding import reading_of
            from mlcl.inference import onnx_file

        file = onnx_file.OnnxFile(source)
        file.reading |= reading_of(vars(options))
        return onnx_file.predict(file, options.images, Path(options.output), **common)
    with importing():
        from mlcl.data.decoding import reading_of
        from mlcl.inference import prediction
        from mlcl.inference.model import load
        from mlcl.inference.rebuild import use_tta
        from mlcl.system import console

    console.quieten()
    model = load(source, "cpu", tuple(options.imports))
    model.reading |= reading_of(vars(options))
    fitted = model.network.tta
    use_tta(model.network, options.tta)
    if model.network.tta != fitted and (model.guaranteed or (options.energy and model.familiar_from is not None)):
        console.say(f"warning: what mlcl calibrate promised holds for --tta {fitted} only")
    return prediction.predict(
        model,
        options.images,
        Path(options.output),
        num_workers=options.num_workers,
        accelerator=options.accelerator,
        devices=options.devices,
        precision=options.precision,
        energy=options.energy,
        **common,
    )
