"""The verbs beside fit, validate and test, one file each.

A verb's file imports nothing heavy at its top, so that help and mistakes are answered before torch is imported. It has:

    SUMMARY                     one line, for ``mlcl --help``
    add_arguments(parser)
    check(options)              raises MlclError for what is wrong with the command line
    run(options) -> int         does it; returns the exit status
    PASSED_ON                   options, or beginnings of them, for another parser; run finds them in options.passed_on
"""

import argparse
import gc
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

from mlcl.cli.command_line import meant, options
from mlcl.errors import MlclError

VERBS = ("predict", "calibrate", "export", "convert", "report", "compare", "ensemble", "check", "pack")


class UsageError(MlclError):
    """A wrong command line: exit status 2."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage; suggests the option that was meant."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
            known = re.findall(r"--[\w.]+", self.format_help())
            message = f"unknown option {word}{meant(word, known)}"
            if not word.startswith("-"):
                message = f"unexpected {word!r}"
        raise UsageError(f"{self.prog.removeprefix('mlcl ')}: {message}; {self.prog} --help shows the options")


def summary(verb: str) -> str:
    """What a verb does, in one line."""
    return str(_module(verb).SUMMARY)


def help_of(verb: str) -> str:
    """Its ``--help``."""
    return _parser(verb).format_help()


def run(verb: str, arguments: list[str]) -> int:
    """Run a verb and return its exit status."""
    own, passed_on = _divided(arguments, getattr(_module(verb), "PASSED_ON", ()))
    parsed = _parser(verb).parse_args(own)
    parsed.passed_on = passed_on
    try:
        _module(verb).check(parsed)
    except MlclError as error:
        raise UsageError(str(error)) from None
    return int(_module(verb).run(parsed))


def _divided(arguments: list[str], passed_on: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """A verb's own arguments, and those of another parser with their values."""
    parts: tuple[list[str], list[str]] = [], []
    for flag, _, words in options(arguments):
        others = flag in passed_on or any(flag.startswith(start) for start in passed_on if start.endswith("."))
        parts[others].extend(words)
    return parts


@contextmanager
def importing() -> Iterator[None]:
    """Import torch and the like without garbage collection, which takes a quarter of the time and finds nothing.

    What is imported stays, so that later collections need not look at it.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # two lines where it cannot write to the home folder
    gc.disable()
    try:
        yield
    finally:
        _freeze()
        gc.enable()


_freeze = cache(gc.freeze)  # once a process; to ask gc.get_freeze_count() takes 50 ms, it counts one by one


def _module(verb: str) -> Any:
    return import_module(f"mlcl.cli.{verb}")


def _parser(verb: str) -> _Parser:
    module = _module(verb)
    parser = _Parser(
        prog=f"mlcl {verb}",
        description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=100),
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser
