"""``mlcl pack``: writes a dataset as a pack, see ``pack.py``; a killed run is finished by the same command."""

import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.chunk_writer import ChunkWriter, Folder, Part, Reduction, scratch
from mlcl.data.dataset import Samples
from mlcl.data.doubts import leaks
from mlcl.data.groups import together
from mlcl.data.images import sizes
from mlcl.data.pack import FORMAT, INDEX, JOB, MANIFEST, TABLE, PackedPictures, digest_of, row_type
from mlcl.data.protocols import protocol_line
from mlcl.data.row_file import with_progress
from mlcl.data.splits import described
from mlcl.data.store import Store, is_url
from mlcl.data.streamed import Streamed
from mlcl.errors import MlclError
from mlcl.system import signals
from mlcl.system.console import say

_AT_ONCE = 65_536  # rows of a table
# What is only there while a pack is made; the last is what write_whole leaves if it is killed.
_UNFINISHED = re.compile(rf"(.*/)?(chunk-\d+-\d+\.json|{re.escape(JOB)}|\.[^/]+\.partial[^/]*)")


def pack(
    data: MultiLabelDataModule, place: str, side: int | None = None, quality: int = 95, chunk_bytes: int = 64_000_000
) -> None:
    """Write every split of a dataset, with the labels as they are read now.

    Args:
        data: the dataset; its ``num_workers`` processes read and write.
        place: a folder or a URL that holds nothing yet, or the unfinished pack of the same dataset.
        side: the shorter side in pixels of what is packed; larger pictures become JPEGs. By default files as they are.
        quality: of these JPEGs.
        chunk_bytes: of the files in a chunk, about.

    Raises:
        MlclError: if the place is taken, labels are hidden on purpose, an image is missing or (to be reduced) cannot be
            read, the disk is full, or the store refuses.
    """
    _require_litdata()
    place = place if is_url(place) else os.path.abspath(os.path.expanduser(place))
    store = Store(place)
    _require_room(store)  # before all of the dataset is read
    data.prepare_data()
    val_source = data.read_splits()
    if data.hidden:
        raise MlclError(f"{data.hidden}: pack the labels as they are, and hide them in the training")
    last = {id(samples): split for split, samples in data.splits.items()}  # val may be test
    folders: dict[str, Folder] = {
        split: Folder(samples, _names(samples, data.root), sizes(samples.paths))
        for split, samples in data.splits.items()
        if last[id(samples)] == split
    }
    manifest: dict[str, Any] = {
        "format": FORMAT,
        **_origin(data),
        "classes": list(data.classes),
        "side": side,
        "quality": quality if side else None,
        "val_source": val_source,
        "notes": data.notes | {f"leak {number}": line for number, line in enumerate(leaks(data.splits))},
        "splits": {split: last[id(samples)] for split, samples in data.splits.items()},
    }
    parts = [part for name, folder in folders.items() for part in _divided(name, folder, chunk_bytes)]
    job = _job(folders, (manifest, chunk_bytes))
    temporary = Path(tempfile.gettempdir() if is_url(place) else place, f".packing-{job}-")  # a disk's own: to move it
    found = _begin(store, job, temporary)
    signals.advise(lambda: "; the same command goes on")
    for line in described(data.splits, data.classes, val_source, ""):
        say(line)
    left = [part for part in parts if not {part.chunk, part.notes} <= found.keys()]
    if len(left) < len(parts):
        say(f"{place}: {len(parts) - len(left):,} of {len(parts):,} chunks are there already")
    reduction = Reduction(side, quality, data.on_bad_image == "skip", data.reading) if side else None
    chunks = ChunkWriter(store, temporary, left, folders, reduction)
    loader = DataLoader(chunks, batch_size=None, num_workers=min(data.workers, len(left)))
    try:
        for _ in with_progress(loader, "packing"):
            pass
    except BaseException:
        if signals.outcome():  # torch (2.14) would tell in a destructor that it has ended a worker, too
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        raise
    found = store.names()
    manifest["folders"] = {
        name: _finish(store, temporary, name, folder, [part for part in parts if part.folder == name], found)
        for name, folder in folders.items()
    }
    store.write(MANIFEST, json.dumps(manifest, indent=1).encode())
    _tidy(store, found)
    total = sum(size for facts in manifest["folders"].values() for _, size in facts["chunks"])
    images = sum(facts["images"] for facts in manifest["folders"].values())
    size = f"{total / 1e9:,.1f} GB" if total >= 1e9 else f"{total / 1e6:,.1f} MB"
    say(f"{place}: {images:,} images in {len(parts):,} chunks, {size}")


def _require_litdata() -> None:
    try:
        import litdata  # noqa: F401
    except ImportError:
        raise MlclError("mlcl pack needs litdata: pip install 'mlcl[stream]'") from None


def _names(samples: Samples, root: Path) -> NDArray[np.bytes_]:
    return np.array([os.fsencode(name) for name in samples.names(root)], dtype=np.bytes_)


def _origin(data: MultiLabelDataModule) -> dict[str, Any]:
    """What the dataset is, and how its images were chosen; of a pack, what it says itself."""
    if isinstance(data, Streamed):
        return {name: data.pack.manifest[name] for name in ("dataset", "protocol", "chosen")}
    return {
        "dataset": type(data).__name__,
        "protocol": protocol_line(data) or "",
        "chosen": {"val_fraction": data.val_fraction, "split_seed": data.split_seed, "empty_images": data.empty_images},
    }


def _divided(name: str, folder: Folder, chunk_bytes: int) -> list[Part]:
    """The chunks of a folder. Training images are shuffled: files of one class often lie together."""
    order, paths = np.arange(len(folder.sizes)), folder.samples.paths
    if isinstance(paths, PackedPictures):  # shuffled already; so each chunk of it is read once
        order = np.argsort(paths.chunk, kind="stable")
    elif name == "train":
        order = np.random.default_rng(0).permutation(order)
    ordered = folder.sizes[order]
    _, starts = np.unique((np.cumsum(ordered) - ordered) // chunk_bytes, return_index=True)
    return [Part(name, n, np.sort(rows)) for n, rows in enumerate(np.split(order, starts[1:])) if len(rows)]


def _job(folders: Mapping[str, Folder], how: Any) -> str:
    """A hash of all that decides what is in the pack."""
    digest = hashlib.blake2b(repr(how).encode(errors="backslashreplace"), digest_size=16)
    for samples, *columns in folders.values():
        digest.update("\0".join(samples.groups or ()).encode(errors="backslashreplace"))
        for column in (*columns, samples.targets):
            digest.update(f"{column.dtype}{column.shape}".encode())
            for start in range(0, len(column), _AT_ONCE):
                digest.update(column[start : start + _AT_ONCE].tobytes())
    return digest.hexdigest()


def _require_room(store: Store) -> dict[str, int]:
    """The names and sizes of an unfinished pack there; MlclError if it is a whole one, or anything else."""
    found = store.names()
    if JOB not in found and MANIFEST in found:
        raise MlclError(f"--output {store.place} holds a whole pack already; remove it, or give another place")
    if JOB not in found and any(not _UNFINISHED.fullmatch(name) for name in found):
        raise MlclError(f"--output {store.place} is not empty; give another place")
    return found


def _begin(store: Store, job: str, temporary: Path) -> dict[str, int]:
    """Take the place, and return what is there from an earlier start: names and sizes."""
    if JOB in (found := _require_room(store)):
        if json.loads(store.read(JOB)).get("job") != job:
            raise MlclError(
                f"--output {store.place} holds an unfinished pack of other data or with other options; remove it, or "
                "give another place"
            )
    else:
        store.write(JOB, json.dumps({"job": job}).encode())
    for left in temporary.parent.glob(f"{temporary.name}*"):  # by a killed process
        shutil.rmtree(left, ignore_errors=True)
    return found


def _finish(
    store: Store, temporary: Path, name: str, folder: Folder, parts: Sequence[Part], found: Mapping[str, int]
) -> dict[str, Any]:
    """Write the table of a folder's images and litdata's index; what the manifest says of them."""
    samples, count = folder.samples, len(folder.names)
    dtype = row_type(samples.targets.shape[1], folder.names.itemsize)
    where = np.zeros(count, [(column, dtype[column]) for column in ("chunk", "offset", "size", "crc")])
    chunks: list[tuple[str, int]] = []
    index: dict[str, Any] = {}
    of_chunks: list[Any] = []  # litdata's
    for part in parts:
        facts = json.loads(store.read(part.notes))
        if found.get(part.chunk) != facts["size"]:
            raise MlclError(
                f"{store.address(part.chunk)} is missing, or has another size than was written; remove it, and the "
                "same command writes it again"
            )
        where["chunk"][part.rows] = part.number
        for column, values in facts["images"].items():
            where[column][part.rows] = values
        chunks.append((Path(part.chunk).name, facts["size"]))
        of_chunks += facts["litdata"]["chunks"]
        index = {**facts["litdata"], "chunks": of_chunks}
    contents = [(size, crc) if size else None for size, crc in where[["size", "crc"]].tolist()]
    group = together(samples.paths, samples.groups, contents)
    with scratch(temporary) as beside:
        file = beside / TABLE
        with file.open("wb") as content:  # some at a time: the labels of many classes are large
            header = {"descr": dtype.descr, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(content, header)  # type: ignore[arg-type]
            for start in range(0, count, _AT_ONCE):
                some = slice(start, start + _AT_ONCE)
                rows = np.empty(len(where[some]), dtype)
                rows["name"], rows["target"], rows["group"] = folder.names[some], samples.targets[some], group[some]
                for column in where.dtype.names or ():
                    rows[column] = where[column][some]
                content.write(rows.tobytes())
        table = digest_of(file)
        store.write(f"{name}/{TABLE}", file)
    store.write(f"{name}/{INDEX}", json.dumps(index).encode())
    return {"images": count, "table": table, "chunks": chunks}


def _tidy(store: Store, found: Mapping[str, int]) -> None:
    """Remove what only an unfinished pack needs; last of all what says that it is one."""
    for name in sorted(filter(_UNFINISHED.fullmatch, found), key=JOB.__eq__):
        store.remove(name)
