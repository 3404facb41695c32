"""A packed dataset: chunks of many pictures in a folder or an object store, and how one picture is found in them.

- ``mlcl.json``: what it is, its classes, splits and chunks; written last, so that a pack without it is unfinished.
- ``train/samples.npy``: a row per image, with name, labels, and where its bytes are.
- ``train/chunk-0-17.bin``: the pictures; with ``train/index.json`` a dataset that litdata reads, too.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mlcl.data.chunk_cache import Chunk, ChunkCache, ChunkFolder, Chunks, PackError
from mlcl.data.images import Pictures
from mlcl.data.row_file import cache_folder, read_rows
from mlcl.data.store import Store, is_url
from mlcl.errors import MlclError
from mlcl.system.files import write_whole

MANIFEST, TABLE, INDEX, JOB = "mlcl.json", "samples.npy", "index.json", "packing.json"
FORMAT = 1  # to be raised when a pack means something else
_CACHE_GB = 20.0


def row_type(classes: int, longest: int) -> np.dtype[Any]:
    """A row of ``samples.npy`` for K classes and names of up to so many bytes."""
    return np.dtype(
        [
            ("name", f"S{max(longest, 1)}"),  # below the root of the dataset that was packed, as bytes
            ("group", "u4"),  # the first row that the image belongs together with, mostly its own
            ("chunk", "u4"),
            ("offset", "u4"),  # of the picture in the chunk
            ("size", "u4"),  # of the picture in bytes
            ("crc", "u4"),  # its CRC-32
            ("target", "i1", (classes,)),
        ]
    )


class PackedPictures(Pictures):
    """Some of the pictures of a split of a pack, in any order.

    Args:
        root: that the names start from.
        rows: of the split's table, (N,).
        chunks: where the split's chunks are.
        key: of the table's content.
        chosen: (n,) the positions of these pictures in the table; by default all.
    """

    def __init__(
        self, root: Path, rows: NDArray[Any], chunks: Chunks, key: str, chosen: NDArray[np.integer[Any]] | None = None
    ) -> None:
        self.root, self.rows, self.chunks, self.table, self.chosen = root, rows, chunks, key, chosen

    def __len__(self) -> int:
        return len(self.rows if self.chosen is None else self.chosen)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self.root / os.fsdecode(self._row(index)["name"])

    def __iter__(self) -> Iterator[Path]:
        return (self[index] for index in range(len(self)))

    def read(self, index: int) -> bytearray:
        """The bytes of the picture, if they are those that were packed; else a PackError names chunk and picture."""
        row = self._row(index)
        data = self.chunks.read(int(row["chunk"]), int(row["offset"]), int(row["size"]))
        if len(data) != row["size"] or zlib.crc32(data) != row["crc"]:
            name = os.fsdecode(row["name"])
            raise PackError(f"{self.chunks.address(int(row['chunk']))} is damaged or another one: {name} is not in it")
        return data

    def take(self, rows: NDArray[np.integer[Any]]) -> "PackedPictures":
        """Those at these positions."""
        chosen = np.asarray(rows) if self.chosen is None else self.chosen[rows]
        return PackedPictures(self.root, self.rows, self.chunks, self.table, chosen)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) bytes of each picture."""
        sizes = self.rows["size"] if self.chosen is None else self.rows["size"][self.chosen]
        return sizes.astype(np.int64)

    @property
    def chunk(self) -> NDArray[np.int64]:
        """(n,) the number of each picture's chunk."""
        chunks = self.rows["chunk"] if self.chosen is None else self.rows["chunk"][self.chosen]
        return chunks.astype(np.int64)

    @property
    def key(self) -> str:
        """Changes with the pictures and their order."""
        chosen = b"" if self.chosen is None else self.chosen.astype("<i8").tobytes()
        return hashlib.blake2b(self.table.encode() + chosen, digest_size=16).hexdigest()

    def _row(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.rows[index if self.chosen is None else self.chosen[index]]


class Pack:
    """A pack in a folder or an object store.

    Args:
        place: its folder or URL.
        cache: folder for chunks from a store; by default in the user's cache folder.
        cache_gb: what they may take there, in 1e9 bytes.

    Raises:
        MlclError: if there is no pack, or an unfinished or newer one.
    """

    def __init__(self, place: str, cache: Path | None = None, cache_gb: float = _CACHE_GB) -> None:
        self.place, self.store = place, Store(place)
        self.manifest = _manifest(self.store)
        self.classes: tuple[str, ...] = tuple(self.manifest["classes"])
        self.splits: dict[str, str] = self.manifest["splits"]  # split -> the folder of its images
        self.root = Path(os.path.abspath(place)) if not is_url(place) else Path(place)
        named = hashlib.blake2b(place.encode(), digest_size=8).hexdigest()
        self.cache, self.cache_bytes = (cache or cache_folder() / "packs") / named, int(cache_gb * 1e9)

    @property
    def is_remote(self) -> bool:
        """Whether chunks have to be fetched."""
        return is_url(self.place)

    @cached_property
    def parts(self) -> dict[str, PackedPictures]:
        """The pictures by folder; MlclError if a table is damaged."""
        return {folder: self._pictures(folder, facts) for folder, facts in self.manifest["folders"].items()}

    def chunks(self, folder: str) -> list[Chunk]:
        """The chunks of a folder by their number."""
        return [Chunk(f"{folder}/{name}", size) for name, size in self.manifest["folders"][folder]["chunks"]]

    def _pictures(self, folder: str, facts: dict[str, Any]) -> PackedPictures:
        name = f"{folder}/{TABLE}"
        file = Path(self.place, name)
        if self.is_remote:
            file = self.cache / f"{facts['table']}.npy"
            if not _is(file, facts["table"]):
                write_whole(file, lambda partial: self.store.download(name, partial))
        if not _is(file, facts["table"]):
            raise PackError(f"{self.store.address(name)} is missing, damaged or of another pack")
        rows, chunks = read_rows(file, facts["images"]), self.chunks(folder)
        reader: Chunks = ChunkFolder(self.store, chunks)
        if self.is_remote:
            reader = ChunkCache(self.store, chunks, rows, facts["table"], self.cache, self.cache_bytes)
        return PackedPictures(self.root, rows, reader, facts["table"])


def digest_of(file: Path) -> str:
    """Of a table's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _is(file: Path, digest: str) -> bool:
    return file.is_file() and digest_of(file) == digest


def _manifest(store: Store) -> dict[str, Any]:
    try:
        text = store.read(MANIFEST)
    except FileNotFoundError:
        if store.exists(JOB):
            raise MlclError(f"{store.place} holds an unfinished pack: the same mlcl pack command finishes it") from None
        raise MlclError(f"{store.place} holds no pack (no {MANIFEST}): mlcl pack makes one") from None
    try:
        manifest = json.loads(text)
        known = manifest["format"]
    except (ValueError, TypeError, KeyError):
        raise MlclError(f"{store.address(MANIFEST)} is no manifest of mlcl pack") from None
    if known != FORMAT:
        raise MlclError(f"{store.place} is a pack of format {known}, this mlcl reads {FORMAT}: pack it again")
    return dict(manifest)
