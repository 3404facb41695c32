"""``mlcl pack``: writes a dataset as a pack, see ``pack.py``; a killed run is finished by the same command."""

import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.dataset import Samples
from mlcl.data.doubts import doubts
from mlcl.data.groups import together
from mlcl.data.images import ImageError, content_at, read_at, sizes
from mlcl.data.pack import FORMAT, INDEX, JOB, MANIFEST, TABLE, digest_of, row_type
from mlcl.data.protocols import protocol_line
from mlcl.data.row_file import with_progress
from mlcl.data.splits import described
from mlcl.data.store import Store, is_url
from mlcl.errors import MlclError
from mlcl.system.console import say

_FIELDS = 4  # of a sample: image, index, name, target; each is 4 bytes of a size, then its content
_TEMPORARY = ".packing-"


class _Part(NamedTuple):
    """A chunk to be written: some of a folder's images."""

    folder: str
    number: int
    rows: NDArray[np.int64]

    @property
    def chunk(self) -> str:
        return f"{self.folder}/chunk-0-{self.number}.bin"

    @property
    def notes(self) -> str:
        """Written after the chunk: what the table and the index need to know of it."""
        return f"{self.folder}/chunk-0-{self.number}.json"


def pack(
    data: MultiLabelDataModule, place: str, side: int | None = None, quality: int = 95, chunk_bytes: int = 64_000_000
) -> None:
    """Write every split of a dataset, with the labels as they are read now.

    Args:
        data: the dataset; its ``num_workers`` processes read and write.
        place: a folder or a URL that holds nothing yet, or the unfinished pack of the same dataset.
        side: the shorter side in pixels of what is packed; larger pictures become JPEGs. By default files as they are.
        quality: of these JPEGs.
        chunk_bytes: of a chunk, about; counted by the files' sizes.

    Raises:
        MlclError: if the place is taken, labels are hidden on purpose, an image is missing, or the store refuses.
    """
    _require_litdata()
    place = place if is_url(place) else os.path.abspath(os.path.expanduser(place))
    data.prepare_data()
    val_source = data.read_splits()
    if data.hidden:
        raise MlclError(f"{data.hidden}: pack the labels as they are, and hide them in the training")
    last = {id(samples): split for split, samples in data.splits.items()}  # val may be test
    folders: dict[str, Samples] = {
        split: samples for split, samples in data.splits.items() if last[id(samples)] == split
    }
    bytes_of = {folder: sizes(samples.paths) for folder, samples in folders.items()}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "dataset": type(data).__name__,
        "protocol": protocol_line(data) or "",
        "classes": list(data.classes),
        "side": side,
        "quality": quality if side else None,
        "chosen": {"val_fraction": data.val_fraction, "split_seed": data.split_seed, "empty_images": data.empty_images},
        "val_source": val_source,
        "notes": data.notes | {f"doubt {n}": line for n, line in enumerate(doubts(data.splits, data.classes))},
        "splits": {split: last[id(samples)] for split, samples in data.splits.items()},
    }
    digest = _job(folders, bytes_of, data.root, (manifest, chunk_bytes))
    parts = [part for folder in folders for part in _divided(folder, bytes_of[folder], chunk_bytes)]
    store = Store(place)
    done = _begin(store, digest, {part.notes for part in parts})
    for line in described(data.splits, data.classes, val_source, ""):
        say(line)
    left = [part for part in parts if part.notes not in done]
    if done:
        say(f"{place}: {len(done):,} of {len(parts):,} chunks are there already")
    chunks = _Chunks(store, left, folders, data.root, side, quality, data.on_bad_image == "skip", data.reading)
    loader = DataLoader(chunks, batch_size=None, num_workers=min(data.workers, len(left)), prefetch_factor=None)
    for _ in with_progress(loader, "packing"):
        pass
    manifest["folders"] = {
        folder: _finish(store, folder, samples, [part for part in parts if part.folder == folder], data.root)
        for folder, samples in folders.items()
    }
    store.write(MANIFEST, json.dumps(manifest, indent=1).encode())
    _tidy(store)
    total = sum(size for facts in manifest["folders"].values() for _, size in facts["chunks"])
    images = sum(len(samples.paths) for samples in folders.values())
    say(f"{place}: {images:,} images in {len(parts):,} chunks, {total / 1e9:.3g} GB")


def _require_litdata() -> None:
    try:
        import litdata  # noqa: F401
    except ImportError:
        raise MlclError("mlcl pack needs litdata: pip install 'mlcl[stream]'") from None


def _job(folders: dict[str, Samples], bytes_of: dict[str, NDArray[np.int64]], root: Path, how: Any) -> str:
    """A hash of all that decides what is in the pack."""
    digest = hashlib.blake2b(repr(how).encode(errors="surrogateescape"), digest_size=16)
    for folder, samples in folders.items():
        digest.update(f"{folder}\0".encode() + bytes_of[folder].tobytes() + np.ascontiguousarray(samples.targets).data)
        digest.update("\0".join(samples.names(root)).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _divided(folder: str, sizes: NDArray[np.int64], chunk_bytes: int) -> list[_Part]:
    """The chunks of a folder. Training images are shuffled: files of one class often lie together."""
    order = np.arange(len(sizes))
    if folder == "train":
        order = np.random.default_rng(0).permutation(order)
    number = (np.cumsum(sizes[order]) - sizes[order]) // chunk_bytes
    _, starts = np.unique(number, return_index=True)
    return [_Part(folder, n, np.sort(rows)) for n, rows in enumerate(np.split(order, starts[1:])) if len(rows)]


def _begin(store: Store, digest: str, notes: set[str]) -> set[str]:
    """Take the place, and return the notes of the chunks that are there from an earlier start."""
    found = store.names()
    if MANIFEST in found:
        _tidy(store)
        raise MlclError(f"--output {store.place} holds a whole pack already; remove it, or give another place")
    if JOB in found:
        if json.loads(store.read(JOB)).get("job") != digest:
            raise MlclError(
                f"--output {store.place} holds an unfinished pack of other data or with other options; remove it, or "
                "give another place"
            )
    elif found:
        raise MlclError(f"--output {store.place} is not empty; give another place")
    else:
        store.write(JOB, json.dumps({"job": digest}).encode())
    return notes & found.keys()


class _Chunks(Dataset[str]):
    """Writes a chunk, and returns its name."""

    def __init__(
        self,
        store: Store,
        parts: Sequence[_Part],
        folders: dict[str, Samples],
        root: Path,
        side: int | None,
        quality: int,
        skip: bool,
        reading: dict[str, Any],
    ) -> None:
        self.store, self.parts, self.folders, self.root = store, parts, folders, root
        self.side, self.quality, self.skip, self.reading = side, quality, skip, reading

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> str:
        from litdata.streaming import Cache

        part = self.parts[place]
        samples, found = self.folders[part.folder], list[tuple[int, int]]()
        names = samples.take(part.rows).names(self.root)
        with _temporary(self.store) as folder:
            cache = Cache(str(folder), chunk_bytes=1 << 62, writer_chunk_index=part.number)
            for index, name in zip(part.rows.tolist(), names, strict=True):
                image = self._content(samples.paths, index)
                text = os.fsencode(name).decode(errors="backslashreplace")
                cache[len(found)] = {"image": image, "index": index, "name": text, "target": samples.targets[index]}
                found.append((len(image), zlib.crc32(image)))
            [written] = cache.done() or []
            file = folder / written
            with file.open("rb") as content:
                offsets = np.frombuffer(content.read(4 * (len(found) + 1)), "<u4")[1:] + 4 * _FIELDS
            [index_file] = folder.glob(f"*{INDEX}")
            facts = {
                "size": file.stat().st_size,
                "images": [(offset, *rest) for offset, rest in zip(offsets.tolist(), found, strict=True)],
                "litdata": json.loads(index_file.read_text()),
            }
            self.store.write(part.chunk, file)
            self.store.write(part.notes, json.dumps(facts).encode())
        return part.chunk

    def _content(self, paths: Sequence[Path], index: int) -> bytes:
        """The file of a picture, or a smaller JPEG in its place."""
        content = bytes(content_at(paths, index))
        if self.side is None:
            return content
        try:
            pixels = read_at(paths, index, **self.reading)
        except ImageError as error:
            if self.skip:
                return content  # for whoever reads it to tell
            raise error.with_remedy(paths[index]) from error
        height, width = pixels.shape[-2:]
        if (scale := self.side / min(height, width)) >= 1:
            return content
        small = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        small = small.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


@contextmanager
def _temporary(store: Store) -> Iterator[Path]:
    """A folder for a chunk that is being made: beside the others, so that it can be moved, if that is a disk."""
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=None if is_url(store.place) else store.place) as folder:
        yield Path(folder)


def _finish(store: Store, folder: str, samples: Samples, parts: Sequence[_Part], root: Path) -> dict[str, Any]:
    """Write the table of a folder's images and litdata's index; what the manifest says of them."""
    names = [os.fsencode(name) for name in samples.names(root)]
    rows = np.zeros(len(names), row_type(samples.targets.shape[1], max(map(len, names), default=1)))
    rows["name"], rows["target"] = names, samples.targets
    rows["group"] = together(samples.paths, samples.groups)
    chunks: list[tuple[str, int]] = []
    index: dict[str, Any] = {}
    for part in parts:
        facts = json.loads(store.read(part.notes))
        rows["chunk"][part.rows] = part.number
        for name, column in zip(("offset", "size", "crc"), zip(*facts["images"], strict=True), strict=True):
            rows[name][part.rows] = column
        chunks.append((Path(part.chunk).name, facts["size"]))
        index = {**facts["litdata"], "chunks": [*index.get("chunks", []), *facts["litdata"]["chunks"]]}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, TABLE)
        np.save(file, rows)
        table = digest_of(file)
        store.write(f"{folder}/{TABLE}", file)
    store.write(f"{folder}/{INDEX}", json.dumps(index).encode())
    return {"images": len(names), "table": table, "chunks": chunks}


def _tidy(store: Store) -> None:
    """Remove what only an unfinished pack needs."""
    for name in store.names():
        if name.endswith(".json") and Path(name).name.startswith("chunk-"):
            store.remove(name)
    if store.exists(JOB):
        store.remove(JOB)
    if not is_url(store.place):
        for folder in Path(store.place).glob(f"{_TEMPORARY}*"):
            shutil.rmtree(folder, ignore_errors=True)
