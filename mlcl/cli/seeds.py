"""``mlcl fit --seeds 5``: several trainings in one command, which share the start of Python and cached features."""

import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlcl.cli.command_line import CommandLine, options, values
from mlcl.cli.verbs import UsageError
from mlcl.runs import folders
from mlcl.system import signals

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

FLAGS = ("--seeds", "--learning_rates")
_MOST = 1000  # seeds of one number: more is a seed that was meant, as in --seeds 20260131
_GRACE = 10.0  # seconds in which a training that is to end may finish its checkpoint


class Variant(NamedTuple):
    """One of the trainings."""

    title: str  # seed 3
    words: list[str]  # its command line


def variants(arguments: list[str]) -> list[Variant]:
    """Every training that a command line asks for: each seed with each learning rate; none without these options.

    Raises:
        UsageError: for numbers that are none, and options that do not go together.
    """
    seeds, rates = (_numbers(flag, arguments) for flag in FLAGS)
    if not seeds + rates:
        return []
    if seeds and values(arguments, "--seed_everything"):
        raise UsageError("--seeds and --seed_everything do not go together: --seeds [3, 7] names the seeds")
    if values(arguments, "--ckpt_path"):
        raise UsageError(f"{' and '.join(FLAGS)} start new runs: they do not go together with --ckpt_path")
    if any(os.environ.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_NTASKS")):
        raise UsageError("--seeds starts its trainings itself: not under torchrun, nor as several tasks of SLURM")
    words, found = [word for flag, _, part in options(arguments) if flag not in FLAGS for word in part], []
    for rate in rates or [""]:
        own = ["--model.optimizer.lr", rate, "--name", f"{CommandLine(words).name()}_lr{rate}"] if rate else []
        for seed in seeds or [""]:
            title = ", ".join(f"{name} {value}" for name, value in (("seed", seed), ("lr", rate)) if value)
            found.append(Variant(title, [*words, *own, *(["--seed_everything", seed] if seed else [])]))
    return found


def _numbers(flag: str, arguments: list[str]) -> list[str]:
    """The numbers of ``[3, 5]``; of one seed without brackets, so many."""
    given = values(arguments, flag)
    if not given:
        return []
    texts, kind = given[-1].strip("[]").replace(" ", "").split(","), int if flag == "--seeds" else float
    try:
        numbers = [kind(text) for text in texts]
    except ValueError:
        numbers = []
    fits = all(0 <= n < 2**32 if kind is int else 0 < n < math.inf for n in numbers)
    if not numbers or not fits or len({*numbers}) < len(numbers):
        raise UsageError(f"{flag} {given[-1]}: expected a number, or different ones as [1, 2, 3]")
    if kind is int and given[-1].isdigit():
        if not numbers[0]:
            raise UsageError("--seeds 0: nothing would be trained")
        if numbers[0] > _MOST:
            raise UsageError(f"{flag} {given[-1]} is so many trainings; for one with that seed: {flag} [{given[-1]}]")
        return [str(seed) for seed in range(int(numbers[0]))]
    return texts


def train(wanted: Sequence[Variant], run: Callable[[list[str]], int]) -> int:
    """Train all of them by ``run``, which returns an exit status: one per processor at once, or one on CUDA.

    Each is a process forked from this one, which has imported everything and computed nothing. Where forking is not
    safe, they run in this process.

    Returns:
        The first status that is not 0, else 0.
    """
    lines = [CommandLine(variant.words) for variant in wanted]
    places = [folders.new_folder(line.runs_root / line.name()) for line in lines]
    jobs = [*zip(wanted, places, strict=True)]
    try:
        forks = sys.platform == "linux"
        statuses = _in_processes(jobs, run) if forks else [run(_prepared(*job)) for job in jobs]
    finally:
        for folder in places:  # of a wrong command line, and those that a signal left waiting
            folders.discard_if_untouched(folder)
    _print(jobs)
    return next((status for status in statuses if status), 0)


def _in_processes(jobs: Sequence[tuple[Variant, Path]], run: Callable[[list[str]], int]) -> list[int]:
    import multiprocessing
    from multiprocessing.connection import wait

    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # or the processes forked afterwards could not use CUDA
    import torch

    from mlcl.cli import training  # noqa: F401  # before the fork, so that it happens once

    most = 1 if torch.cuda.is_available() else min(len(jobs), len(os.sched_getaffinity(0)))
    threads = max(1, torch.get_num_threads() // most)
    context = multiprocessing.get_context("fork")
    waiting = [context.Process(target=_child, args=(*job, run, threads)) for job in jobs]
    started: list[ForkProcess] = []
    try:
        while waiting or any(process.is_alive() for process in started):
            running = [process for process in started if process.is_alive()]
            if waiting and len(running) < most:
                started.append(waiting.pop(0))
                started[-1].start()
            elif running:
                wait([process.sentinel for process in running])
    except BaseException:
        for process in started:
            process.terminate()
        for process in started:
            process.join(_GRACE)
            process.kill()
        raise
    statuses = [process.exitcode or 0 for process in started]
    for (variant, _), status in zip(jobs, statuses, strict=True):
        if status < 0:
            print(f"mlcl: {variant.title} was killed by signal {-status}", file=sys.stderr)
    return [status if status >= 0 else 128 - status for status in statuses]


def _child(variant: Variant, folder: Path, run: Callable[[list[str]], int], threads: int) -> None:
    """A training in a process of its own; its results are in files, so that its table is not needed."""
    import torch

    from mlcl.system import console

    torch.set_num_threads(threads)
    console.title = f"{variant.title}: "
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with signals.watching():
        status = run(_prepared(variant, folder))
    sys.stderr.flush()
    os._exit(status)


def _prepared(variant: Variant, folder: Path) -> list[str]:
    """Its command line, also for the processes that it may start itself, and its folder."""
    words = [*variant.words, "--trainer.enable_progress_bar", "false"]
    sys.argv = ["mlcl", "fit", *words]
    os.environ[folders.RUN_FOLDER] = str(folder)
    return words


def _print(jobs: Sequence[tuple[Variant, Path]]) -> None:
    """The mAP of each, and their mean and standard deviation by run name."""
    from rich.console import Console
    from rich.table import Table

    from mlcl.runs import results

    table, found = Table(title="test mAP (percent)"), dict[Path, list[float]]()
    read = [results.read(folder).summary if (folder / "metrics.json").is_file() else {} for _, folder in jobs]
    probed = any("probe" in summary for summary in read)
    for name in ("", "mAP", *(["to beat"] if probed else []), "run"):
        table.add_column(name, overflow="fold")
    for (variant, folder), summary in zip(jobs, read, strict=True):
        own, probe = summary.get("metrics", {}).get("mAP"), summary.get("probe", {}).get("mAP")
        shown = ["-" if value is None else f"{100 * value:.2f}" for value in ((own, probe) if probed else (own,))]
        table.add_row(variant.title, *shown, os.path.relpath(folder) if folder.is_dir() else "-")
        found.setdefault(folder.parent, []).extend([] if own is None else [100 * own])
    console = Console()
    if any(found.values()):
        console.print(table)
    for parent, many in ((parent, many) for parent, many in found.items() if many):
        spread = f" (sd {statistics.stdev(many):.2f})" if len(many) > 1 else ""
        console.print(f"  {os.path.relpath(parent)}: mean {statistics.mean(many):.2f}{spread}", highlight=False)
