"""``mlcl check``: reads every image of a dataset once and lists what would spoil a training or its numbers."""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from torch.utils.data import DataLoader, Dataset

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.dataset import Samples
from mlcl.data.doubts import doubts
from mlcl.data.file_names import short
from mlcl.data.images import ImageError, read_image
from mlcl.data.labels import PRESENT, Targets, measurable, never_absent
from mlcl.data.protocols import protocol_line
from mlcl.data.row_file import with_progress
from mlcl.data.splits import Split, described
from mlcl.errors import cell, visible
from mlcl.system.console import say
from mlcl.system.files import write_whole

_BATCH = 16  # images per message from a reading process
_SHOWN = 20  # problems of a kind on the terminal
_CLASSES = "class without positives", "class without absences"  # the line of the split names those
_TITLES = {
    "bad image": "images cannot be read",
    "leak": "images are in more than one split: a test on them measures memory",
    "duplicate": "images are copies of others in their split",
}


class _Found(NamedTuple):
    """A hash of a file's content, and why it cannot be read as a picture, or nothing."""

    content: bytes
    reason: str


def check(data: MultiLabelDataModule, output: Path | None = None) -> int:
    """Read everything, print what was found, and write a CSV file ``output`` with a row per problem.

    Returns:
        1 if an image cannot be read, a split has none, or those of the training have no label, else 0.

    Raises:
        MlclError: for what is wrong with the annotations, or if the list cannot be written.
    """
    with suppress(ImageError):  # missing images: each one is reported as unreadable
        data.prepare_data()
    val_source = data.read_splits()
    last = {id(samples): split for split, samples in data.splits.items()}
    splits = {split: samples for split, samples in data.splits.items() if last[id(samples)] == split}  # val may be test
    found = _read_all({path for samples in splits.values() for path in samples.paths}, data.workers, data.reading)
    problems = _problems(splits, found, data.classes)
    lines = [
        *described(data.splits, data.classes, val_source, data.hidden),
        *data.notes.values(),
        *doubts(data.splits, data.classes, bool(data.hidden)),
    ]
    lines += [line] if (line := protocol_line(data)) else []
    empty = [split for split in get_args(Split) if split not in data.splits or not data.splits[split].paths]
    lines += [f"no {', no '.join(empty)} images: mlcl fit would stop"] if empty else []
    lines += ["no train image has a label: mlcl fit would stop"] if data.nothing_to_learn else []
    for split, samples in data.splits.items():
        if split != "train" and len(samples.paths) and not measurable(samples.targets).any():
            lines.append(f"{split}: no class is both present and known to be absent, so its mAP is not a number")
    for kind, title in _TITLES.items():
        rows = problems[kind]
        lines += [f"{len(rows):,} {title}"] if rows else []
        lines += [f"  {short(file)}: {short(detail)}" for _, file, detail in rows[:_SHOWN]]
        lines += [f"  and {len(rows) - _SHOWN:,} more; --output FILE.csv lists all"] if len(rows) > _SHOWN else []
    for line in lines:
        print(visible(line))
    if output is not None:
        table = [(kind, *row) for kind, rows in problems.items() for row in rows]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["problem", "split", "file", "detail"])
        writer.writerows([cell(value) for value in row] for row in table)
        write_whole(output, text.getvalue().encode(errors="backslashreplace"))
        say(f"{output}: {len(table):,} problems")
    bad = sum(bool(one.reason) for one in found.values())
    print(f"{bad:,} of {len(found):,} images cannot be read" if bad else f"all {len(found):,} images can be read")
    return 1 if bad or empty or data.nothing_to_learn else 0


def _problems(
    splits: dict[Split, Samples], found: dict[Path, _Found], classes: Sequence[str]
) -> dict[str, list[tuple[str, str, str]]]:
    """For each kind of problem: split, file (or class) and detail of each."""
    problems: dict[str, set[tuple[str, str, str]]] = {kind: set() for kind in (*_TITLES, *_CLASSES)}
    groups: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)  # by content
    labels: dict[tuple[str, Path], Targets] = {}
    for split, samples in splits.items():
        labels |= {(split, path): target for path, target in zip(samples.paths, samples.targets, strict=True)}
        for path in sorted(samples.paths):
            if found[path].reason:
                problems["bad image"].add((split, str(path), found[path].reason))
            else:
                groups[found[path].content].append((split, path))
        for name, seen in zip(classes, (samples.targets == PRESENT).any(0), strict=True):
            if not seen:
                problems["class without positives"].add((split, name, "no positive"))
        for name in never_absent(samples.targets, classes):
            problems["class without absences"].add((split, name, "nothing known to be absent"))
    for (origin, first), *others in groups.values():
        for split_of_copy, path in others:
            detail = "listed twice" if path == first else f"same content as {first}"
            if not np.array_equal(labels[origin, first], labels[split_of_copy, path]):
                detail += ", but other labels"
            if split_of_copy == origin:
                problems["duplicate"].add((origin, str(path), detail))
            else:
                problems["leak"].add((f"{origin} {split_of_copy}", str(path), detail))
    return {kind: sorted(rows) for kind, rows in problems.items()}


class _Files(Dataset[tuple[Path, _Found]]):
    def __init__(self, paths: Sequence[Path], reading: dict[str, Any]) -> None:
        self.paths, self.reading = paths, reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, _Found]:
        path = self.paths[index]
        try:
            read_image(path, **self.reading)
            return path, _Found(hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), "")
        except (ImageError, OSError) as error:
            return path, _Found(b"", str(error).removeprefix(f"{path}: "))


def _read_all(paths: Iterable[Path], workers: int, reading: dict[str, Any]) -> dict[Path, _Found]:
    loader = DataLoader(_Files(sorted(paths), reading), _BATCH, num_workers=workers, collate_fn=list)
    return {path: one for batch in with_progress(loader, "reading") for path, one in batch}
