"""The entry point: help, version and plain mistakes are answered before torch is imported; then the verb runs."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mlcl import __version__
from mlcl.cli import help, seeds, verbs
from mlcl.cli.command_line import meant, options
from mlcl.errors import MlclError, find_cause, line
from mlcl.system import signals
from mlcl.system.files import from_home

_MAX_FILES = 65_536
_LONE_IMAGE = (
    "a BatchNorm cannot train on a single image here; give a larger --data.batch_size or --data.image_size, or "
    "--model.network.freeze_batch_norm true"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0, 1 for a failure, 2 for a wrong one, 128 + n for signal n."""
    verb, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    rest = [from_home(word) for word in rest]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the process that started this one
            setattr(sys, name, open(os.devnull, "w"))
    if verb in ("-h", "--help", "help"):
        print(help.general(), end="")
        return 0
    if verb in ("-V", "--version", "version"):
        print(f"mlcl {__version__}")
        return 0
    if verb in (*help.VERBS, *verbs.VERBS) and {"--help", "-h"} & {*rest}:
        print(help.of(verb) if verb in help.VERBS else verbs.help_of(verb), end="")
        return 0
    if mistake := _mistake(verb, rest):
        return _fail(mistake, 2)
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        return _fail("the folder that you are in was removed; cd to one that exists", 1)
    if here not in sys.path:
        sys.path.append(here)  # at the end: a timm.py in this folder must not hide the package
    _allow_files()
    # Beside other jobs, threads that spin while they wait make everything five times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with signals.watching():
        return _ended(verb, rest)


def _ended(verb: str, arguments: list[str]) -> int:
    """Run a verb and return the exit status, 128 + n if signal n ended it."""
    try:
        if verb in verbs.VERBS:
            return verbs.run(verb, arguments)
        if verb == "fit" and (wanted := seeds.variants(arguments)):
            return seeds.train(wanted, partial(_ended, verb))
        with verbs.importing():
            from mlcl.cli import training

        training.run(verb, ["--help" if argument == "--help_all" else argument for argument in arguments])
    except verbs.UsageError as error:
        return _fail(str(error), 2)
    except BaseException as error:
        # First, whatever the error is: loader processes that get the same signal fail in ways of their own.
        if stopped := signals.outcome():
            return _fail(*stopped)
        if isinstance(error, KeyboardInterrupt):
            return _fail("interrupted", 130)
        if isinstance(error, SystemExit):  # from the parser: a wrong command line, help or a config
            return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        return _fail(_one_line(error), 1)
    return 0


def _one_line(error: BaseException) -> str:
    """The message of the MlclError behind an error, wherever jsonargparse or a loader's process wrapped it."""
    known = find_cause(error, MlclError)
    text = str(known or error).strip() or "no message"
    wrapped = text.startswith("Caught ")  # in a loader's process, whose traceback follows
    text = text.splitlines()[-1] if wrapped else " ".join(text.split())
    if known:
        return text.partition("Error: ")[2] if wrapped else text
    if wrapped and re.search("No space left on device|unable to (open|write|mmap)", text):
        text += "; shared memory is full: give /dev/shm more (docker run --shm-size), or --data.num_workers 0"
    if "more than 1 value per channel" in text:
        text += f"; {_LONE_IMAGE}"
    if match := re.search(r"You requested to check (\S+) of the `(\w+)_dataloader` but \S+ \* (\d+) < 1", text):
        return f"--trainer.limit_{match[2]}_batches {match[1]} of {match[3]} batches is less than one; give more"
    if match := re.search(r"Errors: - (.*?) - Expected .*?class_path='(?:[\w]+\.)*(\w+)'", text):
        return f"{match[2]}: {match[1]}"  # from a constructor, wrapped by jsonargparse
    where = "in a loader's process" if wrapped else type(error).__name__
    return f"{where}: {text[:600]} (MLCL_DEBUG=1 shows where)"


def _mistake(verb: str, arguments: list[str]) -> str | None:
    """What is wrong with the command line, as far as that shows without importing the classes."""
    if verb in verbs.VERBS:
        return None  # it has a parser of its own
    if verb not in help.VERBS:
        known = (*help.VERBS, *verbs.VERBS)
        return f"unknown verb {verb!r}{meant(verb, known)}; verbs: {', '.join(known)}"
    for flag, value, words in options(arguments):
        if not flag:
            config = f"; did you mean --config {value}?" if words[0].endswith((".yaml", ".yml")) else ""
            return f"unexpected {value!r}{config}"
        if wrong := _wrong_option(verb, flag, value or ""):
            return wrong
    if verb == "fit" and not arguments:
        return "mlcl fit needs --config FILE (or --data CLASS and more); mlcl fit --help shows the options"
    given = {flag for flag, *_ in options(arguments)}
    if verb != "fit" and not given & {"--ckpt_path", "--print_config", "--help_all"}:
        return f"mlcl {verb} needs --ckpt_path: a checkpoint, or last"
    return None


def _wrong_option(verb: str, flag: str, value: str) -> str | None:
    key = "config" if flag == "-c" else flag.removeprefix("--").split(".")[0].rstrip("+")
    if flag.startswith("--") and key not in help.KEYS:
        return f"unknown option {flag}{help.meant(flag)}"
    if key in ("config", "ckpt_path", "import") and not value:
        return f"{flag} needs a value"
    if key == "config" and not value.lstrip().startswith("{") and not os.path.isfile(value):
        return f"--config {value}: no such file"
    if key == "ckpt_path" and value not in ("last", "null"):
        if verb == "fit" and os.path.isdir(value):
            return f"--ckpt_path {value} is a folder; give the checkpoint to continue from, or last"
        if not os.path.exists(value):
            return f"--ckpt_path {value}: no such file; give a checkpoint, or last"
    return None


def _allow_files() -> None:
    """Allow as many open files as the system does: loaders pass every batch through one, and hang without."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _fail(message: str, status: int) -> int:
    """One line on stderr, from the first process only; every rank of a group fails alike."""
    if os.environ.get("MLCL_DEBUG") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):  # of a terminal that is gone
            print(f"mlcl: {line(message)}", file=sys.stderr, flush=True)
    return status


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
