"""The work of predict divided among processes: each writes the rows of its images into a part beside the output.

Beside a part lies its log: what it is made from, then a line of JSON for each batch, with the number of images, the
bytes of their rows and the CRC-32 of these, a stamp of the image files, and the images that could not be read. The same
command goes on after the last batch of which all of this still holds: nothing is lost by a kill, and nothing mixed up.
"""

import glob
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlcl.data.image_files import Elsewhere
from mlcl.errors import MlclError


@dataclass(frozen=True)
class Share:
    """One of the processes that share the work: its number, how many there are, and how they exchange values."""

    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    def stretch(self, images: int, batch_size: int) -> range:
        """This process's images: one stretch, in whole batches, so that these are the same for any number of processes.

        (A picture's logits may change in the last bits with the pictures beside it.)
        """
        batches = -(-images // batch_size)
        start, stop = (batches * rank // self.count * batch_size for rank in (self.rank, self.rank + 1))
        return range(min(start, images), min(stop, images))


def launched() -> tuple[int, int, bool] | None:
    """Whether torchrun or SLURM's srun has started several processes, of which this is one.

    Returns:
        Processes on each node, nodes, and whether it was srun; None if this process is alone.
    """
    known = os.environ.get
    if slurm := "TORCHELASTIC_RUN_ID" not in os.environ:
        # Those of a step, not of the whole job: a job's script runs once.
        everywhere = int(known("SLURM_STEP_NUM_TASKS", 1))
        here = everywhere // int(known("SLURM_STEP_NUM_NODES", 1))
    else:
        here, everywhere = int(known("LOCAL_WORLD_SIZE", 1)), int(known("WORLD_SIZE", 1))
    return (here, everywhere // here, slurm) if everywhere > 1 else None


def job(weights: Path, paths: Sequence[str], options: Mapping[str, Any]) -> str:
    """A digest of all that decides which rows are written.

    Args:
        weights: the file of the network.
        paths: of the images; their content is told by the stamps in the log, or by the store or pack.
        options: whatever else, by name.
    """
    digest = hashlib.blake2b(repr(sorted(options.items())).encode(errors="surrogateescape"), digest_size=16)
    digest.update(_content(weights).encode())
    if isinstance(paths, Elsewhere):
        digest.update(paths.key.encode())
    else:
        digest.update("\0".join(paths).encode(errors="surrogateescape"))
    return digest.hexdigest()


def stamp(paths: Sequence[str], rows: range) -> int:
    """Changes when one of these image files is replaced or edited."""
    seen: list[tuple[int, int]] = []
    for row in rows:
        try:
            state = os.stat(paths[row])
            seen.append((state.st_size, state.st_mtime_ns))
        except OSError:
            seen.append((0, 0))
    return zlib.crc32(repr(seen).encode())


class Part:
    """The rows of one process.

    Args:
        target: the file that all parts become.
        share: the process's.
        job: what they are made from, see :func:`job`.
        stamp: of so many images of this process after so many others.

    Raises:
        MlclError: if it cannot be written, or another process is writing it; also by :meth:`add`.
    """

    def __init__(self, target: Path, share: Share, job: str, stamp: Callable[[int, int], int]) -> None:
        self.path, self.log = paths_of(target, share.count)[share.rank]
        self.done, self.size, self.failures, self.discarded = 0, 0, list[str](), False
        self._files = ExitStack()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._files.enter_context(_opened(self.log))
            _lock(self._log, self.path)
            self._rows = self._files.enter_context(_opened(self.path))
            self._go_on(json.dumps({"job": job}).encode() + b"\n", stamp)
        except (OSError, MlclError) as error:
            self.close()
            if isinstance(error, MlclError):
                raise
            raise MlclError(f"--output {target} cannot be written: {error.strerror}") from None
        self.resumed = self.done

    def add(self, rows: bytes, images: int, stamp: int, failures: Sequence[str]) -> None:
        """Write a batch: after that it is kept, whatever becomes of this process."""
        note = json.dumps([images, len(rows), zlib.crc32(rows), stamp, failures])
        try:
            for file, data in ((self._rows, rows), (self._log, f"{note}\n".encode())):
                file.write(data)
                file.flush()
        except OSError as error:
            raise MlclError(f"{self.path} cannot be written: {error.strerror}") from None
        self._count(images, len(rows), failures)

    def close(self) -> None:
        """Nothing more is written."""
        with suppress(OSError):  # of a full disk: what was not written is not in the log either
            self._files.close()

    def _go_on(self, head: bytes, stamp: Callable[[int, int], int]) -> None:
        """Find the last whole batch of an earlier start, and cut off what comes after it."""
        first, kept = self._log.readline(), 0
        if first == head:
            kept = len(head)
            for line in self._log:
                try:
                    images, size, crc, seen, failures = json.loads(line)
                except ValueError:
                    break
                rows = self._rows.read(size)
                if len(rows) != size or zlib.crc32(rows) != crc or seen != stamp(self.done, images):
                    break
                self._count(images, size, failures)
                kept += len(line)
        self.discarded = first.endswith(b"\n") and not kept
        for file, size in ((self._log, kept), (self._rows, self.size)):
            file.seek(size)
            file.truncate()
        if not kept:
            self._log.write(head)
            self._log.flush()

    def _count(self, images: int, size: int, failures: Sequence[str]) -> None:
        self.done += images
        self.size += size
        self.failures += failures


def paths_of(target: Path, count: int) -> list[tuple[Path, Path]]:
    """The parts of so many processes, each with its log."""
    names = [f"{target.name}.part-{number}-of-{count}" for number in range(1, count + 1)]
    return [(target.with_name(name), target.with_name(f"{name}.log")) for name in names]


def join(parts: Sequence[Path], sizes: Sequence[int]) -> Path:
    """Append all parts to the first; if that is interrupted, the log tells where the first one ended.

    Raises:
        MlclError: if one is not there with its size in bytes, or the first cannot grow.
    """
    try:
        with ExitStack() as files:
            opened = [files.enter_context(part.open("rb")) for part in parts]
            # Of the open files: of another node's file, NFS may remember an older size.
            for part, file, size in zip(parts, opened, sizes, strict=True):
                if os.fstat(file.fileno()).st_size != size:
                    raise MlclError(f"{part} is not as it was written: did anything else write it?")
            if opened[1:]:
                whole = files.enter_context(parts[0].open("ab"))
                for file in opened[1:]:
                    shutil.copyfileobj(file, whole, 1 << 20)
    except OSError as error:
        raise MlclError(f"{error.filename or parts[0]}: {error.strerror}") from None
    return parts[0]


def remove(target: Path) -> None:
    """Remove all parts and logs, also those of another number of processes."""
    for left in target.parent.glob(f"{glob.escape(target.name)}.part-*-of-*"):
        left.unlink(missing_ok=True)


def _content(file: Path) -> str:
    """A digest of a file; of a checkpoint, which is an archive with a checksum for each tensor, that of these."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return repr([(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()])
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


def _opened(path: Path) -> IO[bytes]:
    """For reading and writing, made if it is not there."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _lock(log: IO[bytes], part: Path) -> None:
    """As long as this process lives; its children, such as a killed one's loader processes, do not inherit it."""
    try:
        import fcntl

        fcntl.lockf(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise MlclError(f"{part}: another process is writing it") from None
    except (ImportError, OSError):  # a system, or a file system, without locks
        return
