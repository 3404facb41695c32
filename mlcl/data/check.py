"""``mlcl check``: every image of a dataset read once, and what in it would spoil a training or its numbers."""

import csv
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from mlcl.data.base import MissingImages, MultiLabelDataModule, Split
from mlcl.data.dataset import Samples
from mlcl.data.file_names import short
from mlcl.data.images import ImageError, read_image
from mlcl.data.labels import PRESENT, describe
from mlcl.errors import MlclError, cell, visible
from mlcl.system.console import say

_AT_ONCE = 16  # images per message from a reading process
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_SHOWN = 20  # problems of a kind on the terminal


@dataclass(frozen=True)
class Found:
    """What reading a file gave: height and width, or the reason why there are none; a hash of its content."""

    size: tuple[int, int] | None
    reason: str
    content: bytes | None


@dataclass
class Report:
    """Problems (kind, split, file, detail), one each for the list, and lines for the terminal."""

    problems: list[tuple[str, str, str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def add(self, kind: str, found: Sequence[tuple[str, str, str]], title: str) -> None:
        """Problems of one kind.

        Args:
            kind: for the list.
            found: split, file and detail of each.
            title: what they are.
        """
        self.problems += [(kind, *one) for one in found]
        if found:
            self.lines.append(f"{len(found):,} {title}")
            self.lines += [f"  {short(file)}: {short(detail)}" for _, file, detail in found[:_SHOWN]]
            if len(found) > _SHOWN:
                self.lines.append(f"  and {len(found) - _SHOWN:,} more; --output FILE.csv lists all")


def check(data: MultiLabelDataModule, output: Path | None = None) -> int:
    """Read everything, print what was found, and write the list.

    Args:
        data: the dataset.
        output: CSV file with a row per problem.

    Returns:
        1 if an image cannot be read or a split has none, else 0.

    Raises:
        MlclError: for what is wrong with the annotations, or if the list cannot be written.
    """
    try:
        data.prepare_data()
    except MissingImages:
        pass  # each is told below
    source = data.read_splits()
    found = _read_all({path for samples in data.splits.values() for path in samples.paths}, data.workers)
    report = Report()
    named = {id(samples): split for split, samples in data.splits.items()}  # val may be the test images
    for split, samples in data.splits.items():
        note = f" ({source})" if split == "val" else ""
        report.lines.append(f"{split:5} {describe(samples.targets, data.classes)}{note}")
        if named[id(samples)] == split:
            report.lines += [f"      {line}" for line in (_labels(samples), _sizes(samples, found)) if line]
    own = {split: samples for split, samples in data.splits.items() if named[id(samples)] == split}
    lacking = [split for split in get_args(Split) if split not in data.splits or not data.splits[split].paths]
    report.lines += [f"no {', no '.join(lacking)} images: mlcl fit would stop"] if lacking else []
    bad = _problems(report, own, found, data.classes)
    for line in report.lines:
        print(visible(line))
    if output is not None:
        _write(output, report.problems)
        say(f"{output}: {len(report.problems):,} problems")
    print(f"{bad:,} of {len(found):,} images cannot be read" if bad else f"all {len(found):,} images can be read")
    return 1 if bad or lacking else 0


def _problems(report: Report, splits: dict[Any, Samples], found: dict[Path, Found], classes: Sequence[str]) -> int:
    """Add everything that is wrong; returns the number of files that cannot be read."""
    places: dict[Path, list[str]] = defaultdict(list)
    for split, samples in splits.items():
        for path in samples.paths:
            places[path].append(split)
    bad = [(" ".join(dict.fromkeys(places[p])), str(p), one.reason) for p, one in found.items() if one.size is None]
    report.add("bad image", sorted(bad), "images cannot be read")
    twice = [(splits_of[0], str(path), f"{count} times") for path, splits_of in places.items()
             for split, count in Counter(splits_of).items() if count > 1 and split == splits_of[0]]  # fmt: skip
    report.add("listed twice", sorted(twice), "images are listed more than once in a split")
    copies: dict[bytes, list[Path]] = defaultdict(list)
    for path, one in found.items():
        if one.content is not None and one.size is not None:
            copies[one.content].append(path)
    leaks: list[tuple[str, str, str]] = []
    same: list[tuple[str, str, str]] = []
    for paths in copies.values():
        first, *others = sorted(paths, key=lambda path: (list(splits).index(places[path][0]), str(path)))
        if not others and len(set(places[first])) > 1:
            leaks.append((" ".join(dict.fromkeys(places[first])), str(first), "the same file"))
        for other in others:
            both = dict.fromkeys([*places[first], *places[other]])
            (leaks if len(both) > 1 else same).append((" ".join(both), str(other), f"same content as {first}"))
    report.add("leak", sorted(leaks), "images are in more than one split: a test on them measures memory")
    report.add("duplicate", sorted(same), "images are copies of others in their split")
    for split, samples in splits.items():
        seen = (samples.targets == PRESENT).any(0)
        none = [(str(split), name, "no positive") for name, any_ in zip(classes, seen, strict=True) if not any_]
        report.problems += [("class without positives", *one) for one in none]  # the line of the split names them
    listed = set(places)
    beside = sum(1 for folder in {p.parent for p in listed} for p in _files(folder) if p not in listed)
    if beside:
        report.lines.append(f"{beside:,} other files lie in the same folders and are in no split")
    return len(bad)


class _Files(Dataset[tuple[int, Found]]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Found]:
        path, content = self.paths[index], None
        try:
            picture = read_image(path)
            content = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
            height, width = picture.shape[-2:]
            return index, Found((height, width), "", content)
        except (ImageError, OSError) as error:
            return index, Found(None, str(error).removeprefix(f"{path}: "), content)


def _read_all(paths: Iterable[Path], workers: int) -> dict[Path, Found]:
    """Each file once, by so many processes, with a bar where someone looks."""
    files = _Files(sorted(paths))
    loader = DataLoader(files, batch_size=_AT_ONCE, num_workers=workers, collate_fn=list)
    columns = TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    found: dict[Path, Found] = {}
    watched = sys.stderr.isatty()
    progress = Progress(*columns, console=Console(file=sys.stderr), disable=not watched)
    with progress if watched else nullcontext():  # rich before 15 ends a disabled bar, too, with an empty line
        task = progress.add_task("reading", total=len(files))
        for batch in loader:
            found |= {files.paths[index]: one for index, one in batch}
            progress.advance(task, len(batch))
    return found


def _labels(samples: Samples) -> str:
    if not len(samples.paths):
        return ""
    counts = Counter((samples.targets == PRESENT).sum(1).tolist())
    return "images by number of labels: " + ", ".join(f"{k}: {counts[k]:,}" for k in sorted(counts)[:12])


def _sizes(samples: Samples, found: dict[Path, Found]) -> str:
    sizes = np.array([one.size for one in map(found.__getitem__, samples.paths) if one.size is not None])
    if not len(sizes):
        return ""
    smallest, largest = (sizes[function(sizes.prod(1))] for function in (np.argmin, np.argmax))
    height, width = np.median(sizes, 0).astype(int).tolist()
    ends = f"{smallest[1]} x {smallest[0]} to {largest[1]} x {largest[0]}"
    return f"width x height: {ends} by area, median {width} x {height}"


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in _ENDINGS]
    except (OSError, ValueError):
        return []


def _write(output: Path, problems: Sequence[tuple[str, str, str, str]]) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["problem", "split", "file", "detail"])
            writer.writerows([cell(text) for text in row] for row in problems)
    except OSError as error:
        raise MlclError(f"--output {output} cannot be written: {error.strerror}") from error
