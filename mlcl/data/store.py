"""Folders and object stores by their address: a path, or a URL such as ``s3://bucket/prefix``; fsspec does the work.

Keys and servers come from the usual environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws, ...) alone. A store that
stops answering is asked again for 120 seconds, or for as many as MLCL_STORE_PATIENCE says.
"""

import errno
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from mlcl.errors import MlclError, visible
from mlcl.system.files import write_whole

Result = TypeVar("Result")
_PAUSES = (0.5, 1, 2, 4, 8)  # seconds between the first questions; then the last again
_TIMEOUT = 20.0  # seconds without a byte
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
# What asking again does not mend: refusals, and errors of the local disk that is written to.
_REFUSED = PermissionError, NotADirectoryError, IsADirectoryError, ValueError
_LOCAL = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG
_FINAL = (errno.EINVAL, errno.EPERM, errno.ENOSYS, getattr(errno, "EREMCHG", errno.EINVAL), *_LOCAL)
_NO_KEYS = "NoCredentialsError", "PartialCredentialsError"
_MISTAKES = (*_NO_KEYS, "ProfileNotFound", "InvalidRegionError", "ParamValidationError")
# Nobody is there, or not yet: a mistake in the address until the store has answered once.
_NOBODY = "EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ConnectionRefusedError", "gaierror"


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether this is the address of a store rather than a path."""
    return "://" in str(place)


def patience() -> float:
    """Seconds for which a store that does not answer is asked again."""
    return float(os.environ.get("MLCL_STORE_PATIENCE") or 120)


class Store:
    """The files below an address; in every process of its own, so that it may be handed to workers.

    Args:
        place: a folder, or a URL.

    Raises:
        MlclError: if a package for such URLs is missing, or the URL holds a password or names no bucket; each method,
            if the store refuses, or does not answer for :func:`patience`.
    """

    def __init__(self, place: str) -> None:
        self.place, self._answered = place.rstrip("/") or "/", False
        if is_url(place) and re.search("://[^/]*:[^/]*@", place):
            raise MlclError(
                f"{place.partition('://')[0]}://...: the address holds a password, which would be stored with every "
                "run; give it in the environment"
            )
        if is_url(place) and not is_url(self.place):  # s3://, which would become a folder named "s3:"
            raise MlclError(f"{place} names no bucket, such as s3://bucket/prefix")
        self._files()

    def _files(self) -> tuple[Any, str]:
        """The file system, which fsspec keeps for each process, and the path in it."""
        if not is_url(self.place):
            return fsspec.filesystem("file"), self.place
        kind = self.place.partition("://")[0]
        timeouts = {"connect_timeout": 5, "read_timeout": min(_TIMEOUT, patience()), "retries": {"max_attempts": 1}}
        try:
            files, path = fsspec.core.url_to_fs(self.place, **({"config_kwargs": timeouts} if kind == "s3" else {}))
        except ImportError:
            package = _PACKAGES.get(kind, f"the fsspec package for {kind}://")
            raise MlclError(f"{self.place} needs {package}: pip install {package}") from None
        except ValueError as error:  # an unknown kind of URL
            raise MlclError(f"{self.place}: {error}") from None
        if hasattr(files, "retries"):  # s3fs and gcsfs would wait for a dead server several times as long
            files.retries = 1
        return files, str(path)

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

    def size(self, name: str, until: float | None = None) -> int:
        """Bytes of a file; FileNotFoundError if there is none. Asked until then, see :meth:`download`."""
        return int(self._ask(name, lambda files, path: files.info(path), until)["size"])

    def download(self, name: str, file: Path, until: float | None = None) -> None:
        """Copy to a local file.

        Args:
            name: of the file in the store.
            file: the copy; an OSError tells that there is no room for it.
            until: ask again up to this time of ``time.monotonic``; by default as long as :func:`patience` says.

        Raises:
            FileNotFoundError: if the store has no such file.
        """
        self._ask(name, lambda files, path: files.get_file(path, str(file)), until)

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
        try:
            if isinstance(content, Path):
                source = str(content)
                self._ask(name, lambda files, path: files.put_file(source, path))
            else:
                data = content
                self._ask(name, lambda files, path: files.pipe_file(path, data))
        except FileNotFoundError as error:  # no such bucket
            raise MlclError(f"{self.address(name)}: {_reason(error)}") from None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._ask(name, lambda files, path: files.rm_file(path))

    def _ask(self, name: str, question: Callable[[Any, str], Result], until: float | None = None) -> Result:
        """Ask again while the store does not answer."""
        if until is None:
            until = time.monotonic() + patience()
        attempt = 0
        while True:
            files, top = self._files()
            try:
                answer = question(files, f"{top}/{name}".rstrip("/") if name else top)
                self._answered = True
                return answer
            except FileNotFoundError:
                raise
            except Exception as error:  # of whatever package serves the store
                if isinstance(error, OSError) and error.errno in _LOCAL:
                    raise
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                if self._is_final(error) or time.monotonic() + pause > until:
                    raise MlclError(f"{self.address(name)}: {_reason(error)}") from error
                if not attempt:
                    line = f"{self.address(name)}: {_reason(error)}; asked again for {patience():g} s"
                    sys.stderr.write(f"{visible(line)}\n")  # one call: several processes may say so
                time.sleep(pause)
                attempt += 1

    def _is_final(self, error: Exception) -> bool:
        """Whether the answer would be the same again."""
        if not is_url(self.place) or isinstance(error, _REFUSED):
            return True
        names = {type(cause).__name__ for cause in (error, error.__cause__, error.__context__)}
        unreachable = not self._answered and bool(names & set(_NOBODY))
        number = error.errno if isinstance(error, OSError) else None
        return unreachable or bool(names & set(_MISTAKES)) or number in _FINAL or "Forbidden" in str(error)


def _reason(error: BaseException) -> str:
    """One line, without what a server may answer at length."""
    if type(error).__name__ in _NO_KEYS:
        return "no keys for it in the environment (AWS_ACCESS_KEY_ID, ~/.aws, ...)"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
