"""The chunks of a pack: read where they lie, or fetched from a store into a folder that stays below a limit."""

import os
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
from numpy.typing import NDArray

from mlcl.data.store import Store
from mlcl.errors import MlclError


class PackError(MlclError):
    """Something of a pack is damaged; no picture that could be skipped."""


class Chunk(NamedTuple):
    """A file of many pictures."""

    name: str  # below the pack's address
    size: int  # bytes


class Chunks(ABC):
    """The chunks of a split, by their numbers."""

    def __init__(self, store: Store, chunks: Sequence[Chunk]) -> None:
        self.store, self.chunks = store, chunks

    @abstractmethod
    def read(self, number: int, offset: int, size: int) -> bytearray:
        """So many bytes of a chunk, or less if it ends before; PackError if it is missing or has another size."""

    def fetch_ahead(self, numbers: Iterable[int]) -> None:
        """Chunks that will be read next."""
        return

    def address(self, number: int) -> str:
        """Of a chunk, for messages."""
        return self.store.address(self.chunks[number].name)


class ChunkFolder(Chunks):
    """Chunks of a pack in a folder."""

    def read(self, number: int, offset: int, size: int) -> bytearray:
        """See the base."""
        try:
            return _part(Path(self.store.place, self.chunks[number].name), offset, size, self.chunks[number].size)
        except OSError as error:
            raise PackError(f"{self.address(number)} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise PackError(f"{self.address(number)} {error}") from None


class ChunkCache(Chunks):
    """Chunks of a store, in a folder that all processes of a machine share.

    A chunk is fetched once by whoever needs it first, and is there under its name once each picture in it is as it was
    packed. Those that were used longest ago make room; who needs one of them again fetches it again.

    Args:
        store: the pack.
        chunks: of a split.
        rows: the split's table, for the pictures' checksums.
        key: of the table, so that no chunk of an earlier pack at this address is taken for one of this.
        folder: for the chunks.
        limit: bytes that they may take.
    """

    def __init__(
        self, store: Store, chunks: Sequence[Chunk], rows: NDArray[Any], key: str, folder: Path, limit: int
    ) -> None:
        super().__init__(store, chunks)
        self.rows, self.key, self.folder, self.limit = rows, key, folder, limit
        self._ahead: tuple[int, Queue[int]] | None = None  # the process whose thread fetches ahead

    def read(self, number: int, offset: int, size: int) -> bytearray:
        """See the base; MlclError if the store does not give it, or there is no room."""
        file = self._file(number)
        for _ in range(9):
            try:
                return _part(file, offset, size, self.chunks[number].size)
            except FileNotFoundError:
                self._fetch(number)
            except ValueError:  # cut off: the disk was full, or the machine went down
                file.unlink(missing_ok=True)
        raise MlclError(
            f"{self.folder}: chunks are removed as fast as they come: {len(os.sched_getaffinity(0))} processors "
            f"share {self.limit / 1e9:g} GB; give more --data.cache_gb"
        )

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
                    self._fetch(number)

    def _file(self, number: int) -> Path:
        return self.folder / f"{self.key}-{Path(self.chunks[number].name).name}"

    def _fetch(self, number: int) -> None:
        chunk, file = self.chunks[number], self._file(number)
        partial = file.with_suffix(".partial")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                if file.exists():
                    return
                try:
                    self._make_room(chunk, partial)
                    self.store.download(chunk.name, partial)
                    self._check(number, partial)
                    partial.replace(file)
                finally:
                    partial.unlink(missing_ok=True)
        except FileNotFoundError:
            raise PackError(f"{self.address(number)} is missing") from None
        except OSError as error:
            raise MlclError(
                f"chunks cannot be kept in {self.folder}: {error.strerror or error}; --data.cache_dir names another"
            ) from None

    def _make_room(self, chunk: Chunk, partial: Path) -> None:
        """Remove what was used longest ago, and take the place that the chunk needs."""
        with FileLock(self.folder / "room.lock"):
            sizes = {self._file(n).stem: one.size for n, one in enumerate(self.chunks)}
            files = []
            for entry in os.scandir(self.folder):
                path = Path(entry.path)
                if path.suffix in (".bin", ".partial") and path != partial:
                    with suppress(FileNotFoundError):
                        state = entry.stat()
                        files.append((state.st_mtime_ns, path, max(state.st_size, sizes.get(path.stem, 0))))
            total = sum(size for *_, size in files) + chunk.size
            for _, path, size in sorted(files):
                if total <= self.limit:
                    break
                if path.suffix == ".partial" and not _is_left(path):
                    continue
                path.unlink(missing_ok=True)
                total -= size
            if total > self.limit:
                raise MlclError(
                    f"{self.folder}: {self.limit / 1e9:g} GB have no room for a chunk of {chunk.size / 1e9:.3g} GB, "
                    "with all that other processes fetch; give more --data.cache_gb"
                )
            partial.touch()

    def _check(self, number: int, file: Path) -> None:
        """Raise a PackError unless every picture of the chunk is as it was packed."""
        data = memoryview(file.read_bytes())
        if len(data) != self.chunks[number].size:
            raise PackError(
                f"{self.address(number)} has {len(data):,} bytes, {self.chunks[number].size:,} were packed: pack again"
            )
        for row in self.rows[np.flatnonzero(self.rows["chunk"] == number)]:
            if zlib.crc32(data[row["offset"] : int(row["offset"]) + int(row["size"])]) != row["crc"]:
                name = os.fsdecode(row["name"])
                raise PackError(f"{self.address(number)} is damaged or another one: {name} is not in it")


def _part(file: Path, offset: int, size: int, whole: int) -> bytearray:
    """Bytes of a file that has ``whole`` of them; else a ValueError says how many it has."""
    with file.open("rb", buffering=0) as content:
        if (found := os.fstat(content.fileno()).st_size) != whole:
            raise ValueError(f"has {found:,} bytes, {whole:,} were packed: pack again")
        content.seek(offset)
        data = bytearray(size)
        count = content.readinto(data) or 0
        return data[:count] if count < size else data


def _is_left(partial: Path) -> bool:
    """Whether the process that fetched this was killed."""
    try:
        with FileLock(partial.with_suffix(".lock"), timeout=0):
            return True
    except Timeout:
        return False
