"""Folders and object stores by their address: a path, or a URL such as ``s3://bucket/prefix``; fsspec does the work.

Keys and servers come from the usual environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws, ...) alone.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from mlcl.errors import MlclError, find_cause, visible
from mlcl.system.files import write_whole

Result = TypeVar("Result")
PATIENCE = 120.0  # seconds for which a store that does not answer is asked again
_PAUSES = (0.5, 1, 2, 4, 8)  # seconds between the first questions; then the last again
# Of s3fs: without them, a server that has stopped in the middle of an answer is waited for for five times a minute.
_SETTINGS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 1}}}
}
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
# What asking again does not mend.
_FINAL = FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether this is the address of a store rather than a path."""
    return "://" in str(place)


class Store:
    """The files below an address; in every process of its own, so that it may be handed to workers.

    Args:
        place: a folder, or a URL.

    Raises:
        MlclError: if a package for such URLs is missing; each method, if the store refuses, or does not answer for two
            minutes.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/") or "/"
        self._files()

    def _files(self) -> tuple[Any, str]:
        """The file system, which fsspec keeps for each process, and the path in it."""
        kind = self.place.split("://")[0] if is_url(self.place) else "file"
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.place, **_SETTINGS.get(kind, {}))
            return found
        except ImportError:
            package = _PACKAGES.get(kind, f"the fsspec package for {kind}://")
            raise MlclError(f"{self.place} needs {package}: pip install {package}") from None
        except ValueError as error:  # an unknown kind of URL
            raise MlclError(f"{self.place}: {error}") from None

    def address(self, name: str) -> str:
        """Of a file, as a person would write it."""
        return f"{self.place}/{name}".rstrip("/")

    def read(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError if there is none."""
        return bytes(self._ask(name, lambda files, path: files.cat_file(path)))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._ask(name, lambda files, path: files.isfile(path)))

    def names(self, below: str = "") -> dict[str, int]:
        """Names and sizes in bytes of all files, or of those in a folder, in no order; none where nothing is."""

        def listed(files: Any, path: str) -> dict[str, int]:
            files.invalidate_cache()  # another process may have written since
            top = len(path.removesuffix(below).rstrip("/")) + 1
            found = files.find(path, detail=True) if files.exists(path) else {}
            return {name[top:]: int(info["size"]) for name, info in found.items()}

        return dict(self._ask(below, listed))

    def download(self, name: str, file: Path) -> None:
        """Copy to a local file."""
        self._ask(name, lambda files, path: files.get_file(path, str(file)))

    def write(self, name: str, content: bytes | Path) -> None:
        """Write a file whole, or not at all: bytes, or the content of a local file, which moves if it can."""
        if not is_url(self.place):
            target = Path(self.place) / name
            if isinstance(content, Path):
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content.open("rb") as file:
                        os.fsync(file.fileno())  # as write_whole does
                    content.replace(target)
                    return
                except OSError:  # of another disk
                    content = content.read_bytes()
            write_whole(target, content)
            return
        data = content
        try:
            if isinstance(data, Path):
                self._ask(name, lambda files, path: files.put_file(str(data), path))
            else:
                self._ask(name, lambda files, path: files.pipe_file(path, data))
        except FileNotFoundError as error:  # no such bucket
            raise MlclError(f"{self.address(name)}: {_reason(error)}") from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._ask(name, lambda files, path: files.rm_file(path))

    def _ask(self, name: str, question: Callable[[Any, str], Result]) -> Result:
        """Ask again while the store does not answer."""
        until, pauses = time.monotonic() + (PATIENCE if is_url(self.place) else 0), _pauses()
        while True:
            files, top = self._files()
            try:
                return question(files, f"{top}/{name}".rstrip("/") if name else top)
            except FileNotFoundError:
                raise
            except Exception as error:  # of whatever package serves the store
                pause = next(pauses)
                final = isinstance(error, _FINAL) or _is_refusal(error)
                if final or time.monotonic() + pause > until:
                    raise MlclError(f"{self.address(name)}: {_reason(error)}") from error
                if pause == _PAUSES[0]:
                    line = f"{self.address(name)}: {_reason(error)}; asked again for {PATIENCE:.0f} s"
                    sys.stderr.write(f"{visible(line)}\n")  # one call: several processes may say so
                time.sleep(pause)


def _pauses() -> Iterator[float]:
    yield from _PAUSES
    while True:
        yield _PAUSES[-1]


def _is_refusal(error: BaseException) -> bool:
    """Whether keys are missing or wrong, or there is no such bucket."""
    if type(error).__name__ in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "InvalidRegionError",
    ):
        return True
    cause = find_cause(error, OSError)
    return "bucket does not exist" in str(error) or "Forbidden" in str(error) or isinstance(cause, _FINAL)


def _reason(error: BaseException) -> str:
    """One line, without what a server may answer at length."""
    text = " ".join(str(error).split()) or type(error).__name__
    known = {"NoCredentialsError": "no keys for it in the environment (AWS_ACCESS_KEY_ID, ~/.aws, ...)"}
    return known.get(type(error).__name__, text[:200])
