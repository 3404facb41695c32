"""The texts of ``--help``, from files, so that nothing heavy is imported. A test keeps the flags in them true."""

import difflib
import re
from importlib.resources import files

from mlcl import __version__
from mlcl.cli import verbs

VERBS = {
    "fit": "train, and test the best checkpoint",
    "validate": "evaluate a checkpoint on the validation images",
    "test": "evaluate a checkpoint on the test images",
}
# Top-level keys of fit, validate and test.
KEYS = (
    *("model", "data", "trainer", "config", "seed_everything", "seeds", "learning_rates", "ckpt_path", "name"),
    *("ema_decay", "test_after_fit", "report", "localise", "log_images", "import", "print_config", "help", "help_all"),
    "tta",
)
# As other tools call them.
_ELSEWHERE = {
    "learning_rate": "--model.optimizer.lr", "weight_decay": "--model.optimizer.weight_decay",
    "loss": "--model.classification_loss", "gpus": "--trainer.devices", "epochs": "--trainer.max_epochs",
    "seed": "--seed_everything", "resume": "--ckpt_path", "workers": "--data.num_workers",
}  # fmt: skip


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


def meant(flag: str, exactly: bool = False) -> str:
    """The option of fit that a part of a name (``--lr``) or a misspelt one stands for, as a question; empty if none."""
    shown = re.findall(r"--[a-z_.]+", _text("fit"))
    known = _ELSEWHERE | {option.split(".")[-1].strip("-"): option for option in shown}
    known |= {option.split(".", 1)[-1].strip("-"): option for option in shown} | {key: f"--{key}" for key in KEYS}
    name = flag.removeprefix("--").replace("-", "_")
    first, dot, rest = name.partition(".")
    found = known.get(name) or (f"{known[first]}{dot}{rest}" if first in known else None)
    if found is None and not exactly:
        found = next((known[word] for word in difflib.get_close_matches(first, known, n=1)), None)
    return f" (did you mean {found}?)" if found else ""


def _text(name: str) -> str:
    return (files("mlcl.cli") / "help_texts" / f"{name}.txt").read_text(encoding="utf-8")
