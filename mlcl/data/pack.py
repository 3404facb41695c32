"""A packed dataset: chunks of many pictures in a folder or an object store, and how one picture is found in them.

- ``mlcl.json``: what it is, its classes, splits and chunks; written last, so that a pack without it is unfinished.
- ``train/samples.npy``: a row per image, with name, labels, and where its bytes are.
- ``train/chunk-0-17.bin``: the pictures; with ``train/index.json`` a dataset that litdata reads, too.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mlcl.data.chunk_cache import Chunk, ChunkCache, ChunkFolder, Chunks, PackError, Table
from mlcl.data.images import Pictures
from mlcl.data.row_file import cache_folder, open_or_write
from mlcl.data.splits import SPLITS
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
        table: of the split, N rows.
        chunks: where the split's chunks are.
        chosen: (n,) the positions of these pictures in the table; by default all.
    """

    def __init__(
        self, root: Path, table: Table, chunks: Chunks, chosen: NDArray[np.integer[Any]] | None = None
    ) -> None:
        self.root, self.table, self.chunks, self.chosen = root, table, chunks, chosen

    def __len__(self) -> int:
        return len(self.table.rows if self.chosen is None else self.chosen)

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
        return self.chunks.read(self._row(index))

    def take(self, rows: NDArray[np.integer[Any]]) -> "PackedPictures":
        """Those at these positions."""
        chosen = np.asarray(rows) if self.chosen is None else self.chosen[rows]
        return PackedPictures(self.root, self.table, self.chunks, chosen)

    def names(self, index: NDArray[np.integer[Any]]) -> list[str]:
        """Of those at these positions, below the root; "" for a position that there is not."""
        return [os.fsdecode(self._row(place)["name"]) if place < len(self) else "" for place in index.tolist()]

    @property
    def rows(self) -> NDArray[Any]:
        """(n,) their rows of the table."""
        return self.table.rows if self.chosen is None else self.table.rows[self.chosen]

    @property
    def encoded_names(self) -> NDArray[np.bytes_]:
        """(n,) their names below the root, in the bytes of a file system."""
        names: NDArray[np.bytes_] = self.table.rows["name"]
        return names if self.chosen is None else names[self.chosen]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n,) bytes of each picture."""
        return self._column("size")

    @property
    def chunk(self) -> NDArray[np.int64]:
        """(n,) the number of each picture's chunk."""
        return self._column("chunk")

    @property
    def key(self) -> str:
        """Changes with the pictures and their order."""
        chosen = b"" if self.chosen is None else self.chosen.astype("<i8").tobytes()
        return hashlib.blake2b(self.table.key.encode() + chosen, digest_size=16).hexdigest()

    def _row(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.table.rows[index if self.chosen is None else self.chosen[index]]

    def _column(self, name: str) -> NDArray[np.int64]:
        values = self.table.rows[name]
        return (values if self.chosen is None else values[self.chosen]).astype(np.int64)


class Pack:
    """A pack in a folder or an object store.

    Args:
        place: its folder or URL.
        cache: folder for chunks from a store; by default in the user's cache folder.
        cache_gb: what they may take there, in 1e9 bytes.

    Raises:
        MlclError: if there is no pack, or an unfinished, damaged or newer one.
    """

    def __init__(self, place: str, cache: Path | None = None, cache_gb: float = _CACHE_GB) -> None:
        self.store = Store(place)
        self.place, self.manifest = self.store.place, _manifest(self.store)
        self.classes: tuple[str, ...] = tuple(self.manifest["classes"])
        self.splits: dict[str, str] = self.manifest["splits"]  # split -> the folder of its images
        self.root = Path(self.place) if self.is_remote else Path(os.path.abspath(place))
        named = hashlib.blake2b(self.place.encode(), digest_size=8).hexdigest()
        self.cache, self.cache_bytes = (cache or cache_folder() / "packs") / named, int(cache_gb * 1e9)

    @property
    def is_remote(self) -> bool:
        """Whether chunks have to be fetched."""
        return is_url(self.place)

    @cached_property
    def parts(self) -> dict[str, PackedPictures]:
        """The pictures by folder; MlclError if a table is damaged."""
        return {folder: self._pictures(folder, facts) for folder, facts in self.manifest["folders"].items()}

    def pictures(self, split: str) -> PackedPictures:
        """Of a split; MlclError if there is none."""
        if split not in self.splits:
            raise MlclError(f"{self.place} has no {split} images")
        return self.parts[self.splits[split]]

    def chunks(self, folder: str) -> list[Chunk]:
        """The chunks of a folder by their number."""
        return [Chunk(f"{folder}/{name}", size) for name, size in self.manifest["folders"][folder]["chunks"]]

    def _pictures(self, folder: str, facts: dict[str, Any]) -> PackedPictures:
        name, key, chunks = f"{folder}/{TABLE}", facts["table"], self.chunks(folder)
        file = self.cache / f"{key}.npy" if self.is_remote else Path(self.place, name)

        def opened() -> Table:
            if digest_of(file) != key:
                raise ValueError("other bytes than were packed")
            return Table(file, key, facts["images"])

        def fetch() -> None:
            self.store.size(name)  # FileNotFoundError if there is none
            for other in self.cache.glob("*.npy"):  # of an earlier pack at this address
                if other.stem not in {facts["table"] for facts in self.manifest["folders"].values()}:
                    other.unlink(missing_ok=True)
            write_whole(file, lambda partial: self.store.download(name, partial))

        try:
            if self.is_remote:
                self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            table = open_or_write(file, opened, fetch) if self.is_remote else opened()
            _check_rows(table.rows, chunks, len(self.classes))
        except MlclError:
            raise
        except FileNotFoundError:
            raise PackError(f"{self.store.address(name)} is missing") from None
        except OSError as error:
            raise MlclError(f"{error.filename or self.store.address(name)}: {error.strerror or error}") from None
        except Exception as error:  # numpy has many for a foreign file
            raise PackError(f"{self.store.address(name)} is no table of this pack: {error}") from None
        if self.is_remote:
            return PackedPictures(self.root, table, ChunkCache(self.store, chunks, table, self.cache, self.cache_bytes))
        return PackedPictures(self.root, table, ChunkFolder(self.store, chunks))


def digest_of(file: Path) -> str:
    """Of a table's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _check_rows(rows: NDArray[Any], chunks: Sequence[Chunk], classes: int) -> None:
    """Raise an exception unless each row is a picture inside one of the chunks."""
    if rows.dtype != row_type(classes, rows.dtype["name"].itemsize):
        raise ValueError("other columns")
    ends = np.array([chunk.size for chunk in chunks], dtype=np.int64)[rows["chunk"]]
    if (rows["offset"].astype(np.int64) + rows["size"] > ends).any() or (rows["group"] >= len(rows)).any():
        raise ValueError("pictures beyond the end of their chunk")
    if len(rows) and not -1 <= rows["target"].min() <= rows["target"].max() <= 1:
        raise ValueError("labels other than 1, 0 and -1")


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
    except (ValueError, TypeError, KeyError, RecursionError):
        raise MlclError(f"{store.address(MANIFEST)} is no manifest of mlcl pack") from None
    if known != FORMAT:
        raise MlclError(f"{store.place} is a pack of format {known}, this mlcl reads {FORMAT}: pack it again")
    try:
        _check_manifest(**manifest)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise MlclError(f"{store.address(MANIFEST)} is damaged: {' '.join(str(error).split())[:200]}") from None
    return dict(manifest)


def _check_manifest(
    classes: list[str],
    splits: dict[str, str],
    folders: dict[str, dict[str, Any]],
    chosen: dict[str, Any],
    val_source: str,
    notes: dict[str, str],
    **others: Any,
) -> None:
    """Raise an exception unless the names in it are those of files in the pack, and the rest as pack writes it."""
    _require(all(isinstance(text, str) for text in (*classes, val_source, *notes.values())), "texts")
    _require(isinstance(classes, list) and len(set(classes)) == len(classes) > 0, "classes")
    _require(folders.keys() <= set(SPLITS) and splits.keys() <= set(SPLITS), "splits")
    _require({*splits.values()} == {*folders} and {*chosen} == {"val_fraction", "split_seed", "empty_images"}, "splits")
    for facts in folders.values():
        names = [name for name, _ in facts["chunks"]]
        _require(re.fullmatch("[0-9a-f]{32}", facts["table"]), "the name of a table")
        _require(all(re.fullmatch(r"chunk-\d+-\d+\.bin", name) for name in names), "the name of a chunk")
        _require(len(set(names)) == len(names), "a chunk is named twice")
        counts = [facts["images"], *(size for _, size in facts["chunks"])]
        _require(all(type(count) is int and 0 <= count < 1 << 48 for count in counts), "sizes")


def _require(good: Any, what: str) -> None:
    if not good:
        raise ValueError(what)
