"""``mlcl check``: reads every image of a dataset once and lists what would spoil a training or its numbers."""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from torch.utils.data import DataLoader, Dataset

from mlcl.data.base import MultiLabelDataModule, Split
from mlcl.data.dataset import Samples
from mlcl.data.file_names import short
from mlcl.data.images import ImageError, read_image
from mlcl.data.labels import PRESENT, describe
from mlcl.data.missing import MissingImages
from mlcl.data.progress import with_progress
from mlcl.errors import cell, visible
from mlcl.system.console import say
from mlcl.system.files import write_whole

_BATCH = 16  # images per message from a reading process
_SHOWN = 20  # problems of a kind on the terminal
_TITLES = {  # "class without positives" has none: the line of the split names those
    "bad image": "images cannot be read",
    "leak": "images are in more than one split: a test on them measures memory",
    "duplicate": "images are copies of others in their split",
}


class _Found(NamedTuple):
    """An image file: height, width and a hash of its content, or the reason why it cannot be read."""

    size: tuple[int, int] | None
    content: bytes = b""
    reason: str = ""


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
    with suppress(MissingImages):  # each one is reported as unreadable
        data.prepare_data()
    val_source = data.read_splits()
    last = {id(samples): split for split, samples in data.splits.items()}
    splits = {split: samples for split, samples in data.splits.items() if last[id(samples)] == split}  # val may be test
    found = _read_all({path for samples in splits.values() for path in samples.paths}, data.workers)
    problems = _problems(splits, found, data.classes)
    lines = []
    for split, samples in data.splits.items():
        lines.append(f"{split:5} {describe(samples.targets, data.classes)}{f' ({val_source})' * (split == 'val')}")
        if split in splits and len(samples.paths):
            lines += [f"      {line}" for line in (_label_counts(samples), *_sizes(samples, found))]
    empty = [split for split in get_args(Split) if split not in data.splits or not data.splits[split].paths]
    lines += [f"no {', no '.join(empty)} images: mlcl fit would stop"] if empty else []
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
    bad = sum(one.size is None for one in found.values())
    print(f"{bad:,} of {len(found):,} images cannot be read" if bad else f"all {len(found):,} images can be read")
    return 1 if bad or empty else 0


def _problems(
    splits: dict[Split, Samples], found: dict[Path, _Found], classes: Sequence[str]
) -> dict[str, list[tuple[str, str, str]]]:
    """For each kind of problem: split, file (or class) and detail of each."""
    problems: dict[str, set[tuple[str, str, str]]] = {kind: set() for kind in (*_TITLES, "class without positives")}
    groups: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)  # by content
    for split, samples in splits.items():
        for path in sorted(samples.paths):
            if found[path].size is None:
                problems["bad image"].add((split, str(path), found[path].reason))
            else:
                groups[found[path].content].append((split, path))
        for name, seen in zip(classes, (samples.targets == PRESENT).any(0), strict=True):
            if not seen:
                problems["class without positives"].add((split, name, "no positive"))
    for (origin, first), *others in groups.values():
        for split_of_copy, path in others:
            detail = "listed twice" if path == first else f"same content as {first}"
            if split_of_copy == origin:
                problems["duplicate"].add((origin, str(path), detail))
            else:
                problems["leak"].add((f"{origin} {split_of_copy}", str(path), detail))
    return {kind: sorted(rows) for kind, rows in problems.items()}


class _Files(Dataset[tuple[Path, _Found]]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, _Found]:
        path = self.paths[index]
        try:
            height, width = read_image(path).shape[-2:]
            content = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
            return path, _Found((height, width), content)
        except (ImageError, OSError) as error:
            return path, _Found(None, reason=str(error).removeprefix(f"{path}: "))


def _read_all(paths: Iterable[Path], workers: int) -> dict[Path, _Found]:
    loader = DataLoader(_Files(sorted(paths)), _BATCH, num_workers=workers, collate_fn=list)
    return {path: one for batch in with_progress(loader, "reading") for path, one in batch}


def _label_counts(samples: Samples) -> str:
    counts = Counter((samples.targets == PRESENT).sum(1).tolist())
    return "images by number of labels: " + ", ".join(f"{k}: {counts[k]:,}" for k in sorted(counts)[:12])


def _sizes(samples: Samples, found: dict[Path, _Found]) -> list[str]:
    sizes = np.array([size for path in samples.paths if (size := found[path].size) is not None])
    if not len(sizes):
        return []
    smallest, largest = (sizes[function(sizes.prod(1))] for function in (np.argmin, np.argmax))
    height, width = np.median(sizes, 0).astype(int).tolist()
    ends = f"{smallest[1]} x {smallest[0]} to {largest[1]} x {largest[0]}"
    return [f"width x height: {ends} by area, median {width} x {height}"]
