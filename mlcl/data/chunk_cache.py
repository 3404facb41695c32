"""The chunks of a pack: read where they lie, or fetched from a store into a folder that stays below a limit."""

import os
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from mlcl.data.row_file import read_rows
from mlcl.data.store import Store, patience
from mlcl.errors import MlclError

_PAUSE = 0.02  # seconds before the folder is looked at again


class PackError(MlclError):
    """Something of a pack is damaged; no picture that could be skipped."""


class Chunk(NamedTuple):
    """A file of many pictures."""

    name: str  # below the pack's address
    size: int  # bytes


class Table:
    """The rows of a split's ``samples.npy``, mapped: (N,) with the fields of ``row_type``; ValueError if not N rows."""

    def __init__(self, file: Path, key: str, count: int) -> None:
        self.file, self.key, self.rows = file, key, read_rows(file, count)

    def __reduce__(self) -> tuple[type["Table"], tuple[Path, str, int]]:
        """A spawned process maps the file itself; pickling would send it all rows."""
        return Table, (self.file, self.key, len(self.rows))


class Chunks(ABC):
    """The chunks of a split, by their numbers."""

    def __init__(self, store: Store, chunks: Sequence[Chunk]) -> None:
        self.store, self.chunks = store, chunks

    @abstractmethod
    def read(self, row: Any) -> bytearray:
        """The picture of a row of the table, if it is as it was packed; else a PackError names the chunk."""

    def fetch_ahead(self, numbers: Iterable[int]) -> None:
        """Chunks that will be read next."""
        return

    def address(self, number: int) -> str:
        """Of a chunk, for messages."""
        return self.store.address(self.chunks[number].name)


class ChunkFolder(Chunks):
    """Chunks of a pack in a folder."""

    def read(self, row: Any) -> bytearray:
        """See the base."""
        chunk = self.chunks[row["chunk"]]
        try:
            return _picture(Path(self.store.place, chunk.name), row, chunk.size)
        except FileNotFoundError:
            raise PackError(f"{self.address(row['chunk'])} is missing") from None
        except OSError as error:
            raise PackError(f"{self.address(row['chunk'])} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise PackError(f"{self.address(row['chunk'])} {error}") from None


class ChunkCache(Chunks):
    """Chunks of a store, in a folder that all processes of a machine share.

    A chunk is fetched by whoever needs it first, and is there under its name once each picture in it is as it was
    packed. Those that were read longest ago make room; who needs one of them again fetches it again. Who finds the room
    taken by what others are fetching waits: theirs is whole soon, and can make room then.

    Args:
        store: the pack.
        chunks: of a split.
        table: of the split; its key tells chunks of this pack from those of an earlier one at this address.
        folder: for the chunks. Nothing else may be in it but tables.
        limit: bytes that all files in it may take.
    """

    def __init__(self, store: Store, chunks: Sequence[Chunk], table: Table, folder: Path, limit: int) -> None:
        super().__init__(store, chunks)
        self.table, self.folder, self.limit = table, folder, limit
        self._ahead: tuple[int, Queue[int]] | None = None  # the process whose thread fetches ahead

    def read(self, row: Any) -> bytearray:
        """See the base; MlclError if the store does not give the chunk, or there is no room."""
        number, until = int(row["chunk"]), time.monotonic() + patience()
        while True:
            try:
                return _picture(self._file(number), row, self.chunks[number].size, used=True)
            except FileNotFoundError:
                pass
            except ValueError:  # damaged on this disk
                self._file(number).unlink(missing_ok=True)
            except OSError as error:
                raise self._no_cache(error) from None
            if (picture := self._fetch(number, until, row)) is not None:
                return picture

    def fetch_ahead(self, numbers: Iterable[int]) -> None:
        """Begin to fetch chunks in a thread of this process; what goes wrong there is told by who reads the chunk."""
        if self._ahead is None or self._ahead[0] != os.getpid():
            queue: Queue[int] = Queue()
            self._ahead = os.getpid(), queue
            Thread(target=self._fetch_all, args=(queue,), daemon=True).start()
        queue = self._ahead[1]
        with suppress(Empty):  # of an epoch that was left
            while True:
                queue.get_nowait()
        for number in numbers:
            queue.put(number)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ahead": None}

    def _fetch_all(self, queue: "Queue[int]") -> None:
        while True:
            number = queue.get()
            with suppress(MlclError, OSError):
                if self._file(number).exists():
                    os.utime(self._file(number))
                else:
                    self._fetch(number, until=0)

    def _file(self, number: int) -> Path:
        return self.folder / f"{self.table.key}-{Path(self.chunks[number].name).name}"

    def _fetch(self, number: int, until: float, row: Any = None) -> bytearray | None:
        """Fetch a chunk, and return the picture of a row of it; None if another process has fetched it by now."""
        chunk, file = self.chunks[number], self._file(number)
        partial = self.folder / f"{file.stem}.{chunk.size}.partial"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                if file.exists():
                    return None
                try:
                    self._look(chunk, until)
                    while not self._make_room(chunk.size, partial):
                        time.sleep(_PAUSE)
                    self.store.download(chunk.name, partial, until)
                    self._check(number, partial)
                    # Read here, since it may have to make room as soon as it has its name.
                    picture = None if row is None else _picture(partial, row, chunk.size)
                    with self._counting():
                        partial.replace(file)
                    return picture
                finally:
                    partial.unlink(missing_ok=True)
        except ValueError as error:
            raise PackError(f"{self.address(number)} {error}") from None
        except OSError as error:
            raise self._no_cache(error) from None

    def _look(self, chunk: Chunk, until: float) -> None:
        """Raise a ValueError if the store has no such chunk, or one that would take more than its room."""
        try:
            size = self.store.size(chunk.name, until)
        except FileNotFoundError:
            raise ValueError("is missing") from None
        if size != chunk.size:
            raise ValueError(_other_size(size, chunk.size))

    def _make_room(self, size: int, partial: Path) -> bool:
        """Remove what was read longest ago, and take the room for a chunk; False if others have all of it."""
        with self._counting():
            files, kept, others = [], size, False
            for entry in os.scandir(self.folder):
                path = Path(entry.path)
                if path.suffix == ".partial" and (path == partial or _is_left(path)):
                    path.unlink(missing_ok=True)
                    continue
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    if path.suffix == ".bin":
                        files.append((state.st_mtime_ns, path, state.st_size))
                    elif path.suffix == ".partial":
                        kept, others = kept + max(state.st_size, int(path.stem.rpartition(".")[2])), True
                    else:
                        kept += state.st_size
            if kept > self.limit:
                if others:
                    return False
                raise MlclError(
                    f"{self.folder}: {self.limit / 1e9:g} GB have no room for a chunk of {size / 1e9:.3g} GB; give "
                    "more --data.cache_gb"
                )
            total = kept + sum(own for *_, own in files)
            for _, path, own in sorted(files):
                if total > self.limit:
                    path.unlink(missing_ok=True)
                    total -= own
            partial.touch()
            return True

    def _counting(self) -> FileLock:
        """Held while the files are counted, and while one gets its name, lest it be missed under both."""
        return FileLock(self.folder / "room.lock")

    def _check(self, number: int, file: Path) -> None:
        """Raise a ValueError unless every picture of a chunk is as it was packed."""
        if (size := file.stat().st_size) != self.chunks[number].size:  # since it was looked at
            raise ValueError(_other_size(size, self.chunks[number].size))
        rows = self.table.rows
        data: Any = np.memmap(file, mode="r")
        for row in rows[np.flatnonzero(rows["chunk"] == number)]:
            if zlib.crc32(data[row["offset"] : int(row["offset"]) + int(row["size"])]) != row["crc"]:
                raise ValueError(_other_content(row))

    def _no_cache(self, error: OSError) -> MlclError:
        reason = error.strerror or error
        return MlclError(f"chunks cannot be kept in {self.folder}: {reason}; --data.cache_dir names another folder")


def _picture(file: Path, row: Any, whole: int, used: bool = False) -> bytearray:
    """The picture of a row from its chunk, which has ``whole`` bytes; else a ValueError says what is wrong with it."""
    with file.open("rb", buffering=0) as content:
        if (found := os.fstat(content.fileno()).st_size) != whole:
            raise ValueError(_other_size(found, whole))
        if used:
            os.utime(content.fileno())
        content.seek(int(row["offset"]))
        data = bytearray(int(row["size"]))
        if content.readinto(data) != len(data) or zlib.crc32(data) != row["crc"]:
            raise ValueError(_other_content(row))
        return data


def _other_size(found: int, packed: int) -> str:
    return f"has {found:,} bytes, {packed:,} were packed: pack again"


def _other_content(row: Any) -> str:
    return f"is damaged or another one: {os.fsdecode(row['name'])} is not in it"


def _is_left(partial: Path) -> bool:
    """Whether the process that fetched this was killed."""
    try:
        with FileLock(partial.with_suffix("").with_suffix(".lock"), timeout=0):
            return True
    except Timeout:
        return False
