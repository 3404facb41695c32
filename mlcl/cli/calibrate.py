"""The verb calibrate: thresholds and a temperature from held-out images, into a new checkpoint."""

import argparse
from pathlib import Path

from mlcl.cli import options as shared
from mlcl.cli.verbs import importing
from mlcl.errors import MlclError

SUMMARY = "thresholds per class and honest probabilities, from held-out images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of calibrate."""
    shared.add_checkpoint(parser)
    shared.add_data(parser)
    shared.add_tta(parser)
    parser.add_argument(
        "--target", type=_target, default=("f1", None), metavar="f1|precision=P|recall=R",
        help="what a class's threshold is for: the best F1, or at least this precision or recall there (default: f1)",
    )  # fmt: skip
    parser.add_argument(
        "--guarantee", nargs="?", const="images", choices=("images", "classes"),
        help="with recall=R, promise for new images like these that at most 1 - R is missed: of an image's labels, on "
        "average (images, if no word follows), or of each class's images (classes)",
    )  # fmt: skip
    parser.add_argument(
        "--shrink", type=shared.amount, metavar="N",
        help="positives at which a class's own threshold counts as much as the global one (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--false_alarms", type=shared.share, metavar="SHARE",
        help="also find the energy below which predict calls a picture unfamiliar, and with it at most this share of "
        "pictures like the held-out ones",
    )  # fmt: skip
    parser.add_argument("--output", metavar="FILE", help="new checkpoint (default: calibrated.ckpt beside the old one)")


def check(options: argparse.Namespace) -> None:
    """Raise MlclError for what can be told at once."""
    source = shared.checkpoint(options)
    output = _output(options, source)
    if output.resolve() == source.resolve():
        raise MlclError(f"--output {output} is the checkpoint itself; give another file")
    if options.guarantee and options.target[0] != "recall":
        raise MlclError(f"--guarantee needs --target recall=R; for {options.target[0]} there is no such promise")
    if options.guarantee and options.shrink is not None:
        raise MlclError("--shrink: with --guarantee the promise alone chooses the thresholds; leave one of them out")
    shared.check_output(output)


def run(options: argparse.Namespace) -> int:
    """Calibrate."""
    with importing():
        from mlcl.inference import calibration
        from mlcl.system import console

    console.quieten()
    source = shared.checkpoint(options)
    target, level = options.target
    calibration.calibrate(
        source,
        _output(options, source),
        target=target,
        level=level,
        shrink=10.0 if options.shrink is None else options.shrink,
        guarantee=options.guarantee,
        false_alarms=options.false_alarms,
        tta=options.tta,
        imports=tuple(options.imports),
        **shared.data(options),
    )
    return 0


def _output(options: argparse.Namespace, source: Path) -> Path:
    return Path(options.output) if options.output else source.with_name("calibrated.ckpt")


def _target(value: str) -> tuple[str, float | None]:
    name, _, level = value.partition("=")
    if name == "f1" and not level:
        return name, None
    if name in ("precision", "recall") and level:
        return name, shared.share(level)
    raise argparse.ArgumentTypeError(f"expected f1, precision=0.9 or recall=0.9, got {value!r}")
