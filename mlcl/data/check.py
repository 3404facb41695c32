"""``mlcl check``: reads every image of a dataset once and lists what would spoil a training or its numbers."""

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.chunk_cache import ChunkCache, PackError
from mlcl.data.dataset import Samples
from mlcl.data.doubts import doubts
from mlcl.data.file_names import short
from mlcl.data.images import ImageError, content_at, read_at
from mlcl.data.labels import PRESENT, measurable, never_absent
from mlcl.data.pack import PackedPictures
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
    "damaged chunk": "chunks are not what was packed",
    "bad image": "images cannot be read",
    "leak": "images are in more than one split: a test on them measures memory",
    "duplicate": "images are copies of others in their split",
}


class _Found(NamedTuple):
    """What was found in a file."""

    content: bytes  # a hash of it, if it can be read as a picture
    reason: str  # why it cannot, or nothing
    lost: bool = False  # with its part of a pack's chunk


class _Image(NamedTuple):
    """One of a split's images."""

    place: int  # of the split among the others
    split: Split
    samples: Samples
    row: int
    chunk: str  # the address of a packed image's chunk, else nothing

    @property
    def path(self) -> Path:
        return self.samples.paths[self.row]

    def shown(self, root: Path) -> str:
        """The path of a file; of a packed image, its name."""
        return str(self.path.relative_to(root) if self.chunk and self.path.is_relative_to(root) else self.path)


class _Images(Dataset[tuple[int, _Found]]):
    """The images of all splits, numbered one split after the other; of them each file once, read."""

    def __init__(self, splits: Mapping[Split, Samples], reading: dict[str, Any]) -> None:
        self.splits, self.reading = list(splits.items()), reading
        self.starts = np.cumsum([0, *(len(samples.paths) for samples in splits.values())])
        paths = [samples.paths for samples in splits.values()]
        # (N,) the first number of the same file; a number of each file in the order in which they are read.
        self.same = self.files = np.arange(self.starts[-1])
        chunks = [own.chunk for own in paths if isinstance(own, PackedPictures)]
        self.chunk = np.concatenate(chunks) if chunks else None
        if self.chunk is not None:
            self.files = np.lexsort((self.chunk, np.repeat(np.arange(len(paths)), np.diff(self.starts))))
        else:
            hashes = [_hash(os.fsencode(path)) for own in paths for path in own]
            _, first, place = np.unique(np.array(hashes, "S16"), return_index=True, return_inverse=True)
            self.same, self.files = first[place], np.sort(first)
        self.lost: dict[str, str] = {}  # chunks of a store, which would be fetched again for each image

    def at(self, number: int) -> _Image:
        """The image of a number."""
        place = int(np.searchsorted(self.starts, number, "right")) - 1
        split, samples = self.splits[place]
        chunk = ""
        if isinstance(samples.paths, PackedPictures) and self.chunk is not None:
            chunk = samples.paths.chunks.address(int(self.chunk[number]))
        return _Image(place, split, samples, number - int(self.starts[place]), chunk)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[int, _Found]:
        number = int(self.files[index])
        image = self.at(number)
        paths, row = image.samples.paths, image.row
        try:
            if image.chunk in self.lost:
                return number, _Found(b"", self.lost[image.chunk], lost=True)
            read_at(paths, row, **self.reading)
            return number, _Found(_hash(content_at(paths, row)), "")
        except PackError as error:
            if isinstance(paths, PackedPictures) and isinstance(paths.chunks, ChunkCache):
                self.lost[image.chunk] = str(error)
            return number, _Found(b"", str(error), lost=True)
        except ImageError as error:
            return number, _Found(b"", str(error).removeprefix(f"{image.path}: "))


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
    images = _Images(splits, data.reading)
    content, bad = _read_all(images, data.workers)
    problems = _problems(images, content, bad, data)
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
    count = len(images)
    print(f"{len(bad):,} of {count:,} images cannot be read" if bad else f"all {count:,} images can be read")
    return 1 if bad or empty or data.nothing_to_learn else 0


def _problems(
    images: _Images, content: NDArray[np.bytes_], bad: Mapping[int, _Found], data: MultiLabelDataModule
) -> dict[str, list[tuple[str, str, str]]]:
    """For each kind of problem: split, file (chunk, class) and detail of each."""
    problems: dict[str, set[tuple[str, str, str]]] = {kind: set() for kind in (*_TITLES, *_CLASSES)}
    is_bad = np.isin(images.same, list(bad))
    lost: dict[str, list[tuple[_Image, str]]] = defaultdict(list)  # by chunk
    for number in np.flatnonzero(is_bad).tolist():
        image, found = images.at(number), bad[images.same[number]]
        if found.lost:
            lost[image.chunk].append((image, found.reason))
        else:
            problems["bad image"].add((image.split, image.shown(data.root), found.reason))
    for chunk, rows in lost.items():
        image, reason = rows[0]
        reason = reason.removeprefix(f"{chunk} ")
        problems["damaged chunk"].add((image.split, chunk, f"{reason}; images lost with it: {len(rows):,}"))
    for split, samples in images.splits:
        for name, seen in zip(data.classes, (samples.targets == PRESENT).any(0), strict=True):
            if not seen:
                problems["class without positives"].add((split, name, "no positive"))
        for name in never_absent(samples.targets, data.classes):
            problems["class without absences"].add((split, name, "nothing known to be absent"))
    for numbers in _copies(content, np.flatnonzero(~is_bad)):
        first, *others = sorted(map(images.at, numbers), key=lambda image: (image.place, image.path))
        for copy in others:
            detail = "listed twice" if copy.path == first.path else f"same content as {first.shown(data.root)}"
            if not np.array_equal(first.samples.targets[first.row], copy.samples.targets[copy.row]):
                detail += ", but other labels"
            if copy.split == first.split:
                problems["duplicate"].add((copy.split, copy.shown(data.root), detail))
            else:
                problems["leak"].add((f"{first.split} {copy.split}", copy.shown(data.root), detail))
    return {kind: sorted(rows) for kind, rows in problems.items()}


def _copies(content: NDArray[np.bytes_], numbers: NDArray[np.int64]) -> Iterable[list[int]]:
    """The numbers that have a content in common."""
    _, place, count = np.unique(content[numbers], return_inverse=True, return_counts=True)
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number in numbers[count[place] > 1].tolist():
        groups[content[number]].append(number)
    return groups.values()


def _hash(content: bytes | bytearray) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _read_all(images: _Images, workers: int) -> tuple[NDArray[np.bytes_], dict[int, _Found]]:
    """A hash of the content of each image (N,), and the files that cannot be read, by their number."""
    content, bad = np.zeros(len(images.same), "S16"), dict[int, _Found]()
    loader = DataLoader(images, _BATCH, num_workers=workers, collate_fn=list)
    for batch in with_progress(loader, "reading"):
        for number, found in batch:
            content[number] = found.content
            if found.reason:
                bad[number] = found
    return content[images.same], bad
