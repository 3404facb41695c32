"""The texts of ``--help``, from files, so that nothing heavy is imported. A test keeps the flags in them true."""

from importlib.resources import files

from mlcl import __version__
from mlcl.cli import verbs

VERBS = {
    "fit": "train, and test the best checkpoint",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
}


def of(verb: str) -> str:
    """The help of fit, validate or test."""
    if verb == "fit":
        return _text("fit")
    return _text("evaluate").format(verb=verb, images={"validate": "validation"}.get(verb, verb))


def general() -> str:
    """The help of mlcl itself."""
    every = VERBS | {verb: verbs.summary(verb) for verb in verbs.VERBS}
    lines = "\n".join(f"  {verb:10} {text}" for verb, text in every.items())
    return _text("general").format(version=__version__, verbs=lines)


def _text(name: str) -> str:
    return (files("mlcl.cli") / "help_texts" / f"{name}.txt").read_text(encoding="utf-8")
