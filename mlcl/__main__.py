"""The door: help, version and plain mistakes are answered at once, before torch is imported; then the verb."""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlcl import __version__
from mlcl.cli import help, verbs
from mlcl.errors import MlclError, line
from mlcl.system import signals

_KEYS = (
    *(
        "model",
        "data",
        "trainer",
        "config",
        "seed_everything",
        "ckpt_path",
        "name",
        "ema_decay",
        "test_after_fit",
        "report",
        "log_images",
    ),
    *("import", "print_config", "help", "help_all"),
)
_FILES = 65_536
_LONE_IMAGE = (
    "a BatchNorm cannot train on a single image here; give a larger --data.batch_size or --data.image_size, or "
    "--model.network.freeze_batch_norm true"
)
_NO_SHARED_MEMORY = "; shared memory is full: give /dev/shm more (docker run --shm-size), or --data.num_workers 0"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0, 1 for a failure, 2 for a wrong one, 128 + n for signal n."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever has started us
            setattr(sys, name, open(os.devnull, "w"))
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help.general(), end="")
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        print(f"mlcl {__version__}")
        return 0
    verb, *rest = arguments
    if verb in help.VERBS and ("--help" in rest or "-h" in rest):
        print(help.of(verb), end="")
        return 0
    if verb in verbs.VERBS and ("--help" in rest or "-h" in rest):
        print(verbs.help_of(verb), end="")
        return 0
    if mistake := _mistake(verb, rest):
        return _fail(mistake, 2)
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        return _fail("the folder that you are in was removed; cd to one that exists", 1)
    if here not in sys.path:
        sys.path.append(here)  # at the end: a timm.py that lies here must not win
    _allow_files()
    # Threads that wait by spinning take the core that another one needs: beside other jobs, five times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with signals.watching():
        return _ended(verb, rest)


def _ended(verb: str, arguments: list[str]) -> int:
    """Run a verb that was not found wrong; returns the exit status, 128 + n where signal n has ended it."""
    try:
        if verb in verbs.VERBS:
            return verbs.run(verb, arguments)
        with verbs.importing():
            from mlcl.cli import training

        training.run(verb, ["--help" if argument == "--help_all" else argument for argument in arguments])
    except verbs.UsageError as error:
        return _fail(str(error), 2)
    except BaseException as error:
        # Whatever it has become on its way: a loader's process that had the same signal fails on its own account.
        if stopped := signals.outcome():
            return _fail(*stopped)
        if isinstance(error, KeyboardInterrupt):
            return _fail("interrupted", 130)
        if isinstance(error, SystemExit):  # jsonargparse has said what is wrong, or has printed help or a config
            return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        return _fail(_one_line(error), 1)
    return 0


def _one_line(error: BaseException) -> str:
    """The message of the MlclError that started it, wherever jsonargparse or a loader's worker wrapped it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MlclError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        text = str(cause).strip()
        if text.startswith("Caught "):  # in a loader's worker: its whole traceback follows
            text = text.splitlines()[-1].partition("Error: ")[2]
        return " ".join(text.split())
    text = str(error).strip()
    if text.startswith("Caught "):
        text = text.splitlines()[-1]
        if re.search("No space left on device|unable to (open|write|mmap)", text):
            text += _NO_SHARED_MEMORY
        return f"in a loader's process, {text} (MLCL_DEBUG=1 shows where)"
    text = " ".join(text.split()) or "no message"
    if match := re.search(r"Errors: - (.*?) - Expected .*?class_path='(?:[\w]+\.)*(\w+)'", text):
        return f"{match[2]}: {match[1]}"  # a constructor of ours, wrapped by jsonargparse
    if "more than 1 value per channel" in text:
        return f"{text}; {_LONE_IMAGE}"
    if isinstance(error, ValueError) and (part := _part(error)):
        return f"{part}: {text}"
    return f"{type(error).__name__}: {text[:600]} (MLCL_DEBUG=1 shows where)"


def _part(error: BaseException) -> str | None:
    """The head or loss in whose code an error was raised."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        owner = type(frame.f_locals.get("self"))
        if owner.__module__.startswith(("mlcl.heads.", "mlcl.losses.")):
            return owner.__name__
    return None


def _mistake(verb: str, arguments: list[str]) -> str | None:
    """What is wrong with the command line, as far as that can be told without knowing the classes."""
    if verb in verbs.VERBS:
        return None  # it has a parser of its own
    if verb not in help.VERBS:
        known = (*help.VERBS, *verbs.VERBS)
        return f"unknown verb {verb!r}{_meant(verb, known)}; verbs: {', '.join(known)}"
    for number, argument in enumerate(arguments):
        if not argument.startswith("-") or argument == "-h":
            before = arguments[number - 1] if number else ""
            if not (before.startswith("-") and "=" not in before):
                meant = f"; did you mean --config {argument}?" if argument.endswith((".yaml", ".yml")) else ""
                return f"unexpected {argument!r}{meant}"
            continue
        flag, given, value = argument.partition("=")
        if not given and number + 1 < len(arguments):
            value = arguments[number + 1]
        key = "config" if flag == "-c" else flag.removeprefix("--").split(".")[0].rstrip("+")
        if flag.startswith("--") or flag == "-c":
            if key not in _KEYS:
                return f"unknown option {flag}{_meant('--' + key, tuple('--' + known for known in _KEYS))}"
            if key in ("config", "ckpt_path", "import") and not value:
                return f"{flag} needs a value"
            if key == "config" and not value.lstrip().startswith("{") and not os.path.isfile(value):
                return f"--config {value}: no such file"
            if key == "ckpt_path" and value not in ("last", "null"):
                if verb == "fit" and os.path.isdir(value):
                    return f"--ckpt_path {value} is a folder; give the checkpoint to continue from, or last"
                if not os.path.exists(value):
                    return f"--ckpt_path {value}: no such file; give a checkpoint, or last"
    if verb == "fit" and not arguments:
        return "mlcl fit needs --config FILE (or --data CLASS and more); mlcl fit --help shows the options"
    flags = {argument.split("=")[0] for argument in arguments}
    if verb != "fit" and not flags & {"--ckpt_path", "--print_config", "--help_all"}:
        return f"mlcl {verb} needs --ckpt_path: a checkpoint, or last"
    return None


def _allow_files() -> None:
    """As many open files as we may have: loaders pass every batch through one, and wait for ever where they cannot."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _meant(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


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
