"""Options that several verbs share."""

import argparse
import glob
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlcl.cli import command_line
from mlcl.errors import MlclError
from mlcl.system.files import from_home


def add_checkpoint(parser: argparse.ArgumentParser, also: str = "") -> None:
    """``--ckpt_path``, with what it may name as well, ``--name`` and ``--import``."""
    parser.add_argument(
        "--ckpt_path", required=True, metavar="FILE|RUN|last",
        help=f"checkpoint; a run's folder means its best.ckpt{also}",
    )  # fmt: skip
    parser.add_argument("--name", default="run", help="whose last.ckpt --ckpt_path last means: runs/NAME")
    add_import(parser)


def add_import(parser: argparse.ArgumentParser, by: str = "the checkpoint") -> None:
    """``--import``, of what ``by`` names."""
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE",
        help=f"a module of yours whose classes {by} may name",
    )  # fmt: skip


def checkpoint(options: argparse.Namespace) -> Path:
    """The file that ``--ckpt_path`` means."""
    value = options.ckpt_path
    if not value or (value != "last" and not Path(value).exists()):
        raise MlclError(f"--ckpt_path {value}: no such file or folder; give a checkpoint, a run's folder, or last")
    found = command_line.checkpoint_of(value, Path("runs").absolute() / options.name)
    assert found is not None  # null, which means none, is no file
    return found


def images(patterns: Sequence[str], urls: bool = False) -> list[str]:
    """What ``--images`` names, with the lines of a text file in place of ``@FILE``; MlclError for what is not there.

    A path in a list is relative to the current folder, as it would be on the command line. Of URLs, where they may be,
    nobody is asked yet.
    """
    named: dict[str, str] = {}  # where each is named
    for word in patterns:
        lines = {word: f"--images {word}"}
        if word.startswith("@") and not os.path.lexists(word):
            try:
                text = Path(word[1:]).read_text(encoding="utf-8-sig", errors="surrogateescape")
            except OSError as error:
                raise MlclError(f"--images {word}: the list cannot be read: {error.strerror}") from None
            numbered = ((from_home(line.strip(" \t\r")), n) for n, line in enumerate(text.split("\n"), 1))
            if not (lines := {path: f"{word[1:]}, line {n}: {path}" for path, n in numbered if path}):
                raise MlclError(f"--images {word}: the list is empty")
        named |= lines
    for path, place in named.items():
        if urls and "://" in path:
            if re.match(r"[^/]*://[^/]*:[^/]*@|https?://.*\?", path):  # which would be written, and shown
                raise MlclError("--images: keys belong in the environment: give URLs without user, password and query")
            continue
        if not os.path.exists(path) and not glob.has_magic(path):
            raise MlclError(f"{place}: no such file or folder")
    return list(named)


def check_output(output: Path, *endings: str) -> None:
    """Raise MlclError for a file of results that cannot be written, or has none of these endings."""
    if endings and output.suffix.lower() not in endings:
        raise MlclError(f"--output {output}: the name must end in {' or '.join(endings)}")
    if output.is_dir():
        raise MlclError(f"--output {output} is a folder; give a file")
    if output.parent.exists() and not os.access(output.parent, os.W_OK):
        raise MlclError(f"--output {output}: nothing can be written there")


def number(kind: type[int] | type[float], words: str, allowed: Callable[[float], bool]) -> Callable[[str], Any]:
    """A type for argparse: numbers of one kind for which ``allowed`` is true; ``words`` describe them."""

    def parse(value: str) -> float:
        try:
            if allowed(parsed := kind(value)):
                return parsed
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {words}, got {value!r}")

    return parse


positive = number(int, "a whole number of at least 1", lambda n: n >= 1)
whole = number(int, "a whole number", lambda n: n >= 0)
share = number(float, "a number between 0 and 1", lambda n: 0 < n < 1)
amount = number(float, "a number of at least 0", lambda n: 0 <= n < math.inf)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Where the dataset of the checkpoint lies now, and how it is read."""
    add_root(parser)
    parser.add_argument("--batch_size", type=positive, metavar="N", help="images per step (default: as trained)")
    parser.add_argument("--num_workers", type=whole, metavar="N", help="loader processes (default: as trained)")
    add_reading(parser)
    parser.add_argument("--accelerator", default="auto", metavar="KIND", help="auto, cpu, gpu (default: auto)")


OF_DATASET = ("--config", "-c", "--data", "--data.", "--import")  # for the parser of fit, which knows the datasets


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """What OF_DATASET names, for the help."""
    parser.add_argument("--config", metavar="FILE", help="YAML, as for mlcl fit; several are laid over each other")
    parser.add_argument(
        "--data", metavar="CLASS",
        help="COCO2014, VOC2007, CSVDataset, ... (mlcl fit --help), or yours as file.Class",
    )  # fmt: skip
    parser.add_argument("--data.root", metavar="DIR", help="where it lies; of a pack, its folder or URL")
    parser.add_argument("--data.num_workers", metavar="N", help="processes that read (default: as for training)")
    parser.add_argument("--data.KEY", metavar="VALUE", help="any other setting of the dataset, as for mlcl fit")


def check_dataset(verb: str, passed_on: list[str]) -> None:
    """Raise MlclError if no dataset is named, or a config file is missing."""
    files = [file for flag in OF_DATASET[:2] for file in command_line.values(passed_on, flag)]
    if not any((*files, *command_line.values(passed_on, "--data"))):
        raise MlclError(f"{verb} needs --config FILE or --data CLASS; mlcl {verb} --help shows the options")
    for file in files:
        if not file.lstrip().startswith("{") and not os.path.isfile(file):
            raise MlclError(f"--config {file}: no such file")


def add_tta(parser: argparse.ArgumentParser) -> None:
    """``--tta``."""
    parser.add_argument(
        "--tta", choices=("none", "flip"),
        help="flip: the mean logits of every picture and its mirror image (default: what the checkpoint says)",
    )  # fmt: skip


def add_root(parser: argparse.ArgumentParser) -> None:
    """``--data.root``."""
    parser.add_argument(
        "--data.root", dest="data_root", metavar="DIR", help="where the run's data lies, if not where it lay"
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """``--white`` and ``--max_pixels``, which are also settings of a dataset."""
    parser.add_argument(
        "--white", type=number(float, "a number above 0", lambda n: 0 < n < math.inf), metavar="VALUE",
        help="the value that is white in pictures of more than 8 bits, such as 4095 (default: as trained)",
    )  # fmt: skip
    parser.add_argument("--max_pixels", type=positive, metavar="N", help="read pictures of up to N pixels")


def data(options: argparse.Namespace) -> dict[str, Any]:
    """These as arguments: ``root``, ``accelerator`` and what of the dataset changes."""
    names = "batch_size", "num_workers", "white", "max_pixels"
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return {"root": options.data_root, "accelerator": options.accelerator, "changes": given}
