"""Images that are no files of this machine: the objects of a store, and the pictures of a pack."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, overload

import numpy as np

from mlcl.data.decoding import ImageError
from mlcl.data.image_files import PACK, UNFINISHED, Elsewhere, find_images, is_image, is_pack
from mlcl.data.store import Store, is_url
from mlcl.errors import MlclError, find_cause

# S3's words for keys that are not, or no longer, good for anything; other refusals are about one object.
_BAD_KEYS = ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidSecurity")


class _Listed:
    """Objects and files of this machine, by name."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sizes: list[int] = []  # in bytes, 0 where nobody has said

    @property
    def key(self) -> str:
        return "\0".join(map(str, [*self.names, *self.sizes]))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, at: int) -> str:
        return self.names[at]

    def content(self, at: int) -> bytearray | None:
        return _object(self.names[at]) if is_url(self.names[at]) else None


class _Packed:
    """A folder of a pack, in the order in which the pictures lie in its chunks."""

    def __init__(self, pictures: Any) -> None:
        self.pictures, self.key, rows = pictures, pictures.key, pictures.rows
        self.order = np.lexsort((rows["offset"], rows["chunk"]))
        self.current = -1  # the chunk that is being read in this process

    def __len__(self) -> int:
        return len(self.order)

    def name(self, at: int) -> str:
        return os.fsdecode(self.pictures.rows["name"][self.order[at]])

    def content(self, at: int) -> bytearray:
        row, chunks = int(self.order[at]), self.pictures.chunks
        chunk = int(self.pictures.rows["chunk"][row])
        if chunk != self.current:
            self.current = chunk
            chunks.fetch_ahead(range(chunk + 1, min(chunk + 2, len(chunks.chunks))))
        content: bytearray = self.pictures.read(row)
        return content


class FarImages(Elsewhere):
    """The images that words of ``--images`` name, some of which are URLs or packs.

    Objects, like files, are all images below a prefix by their ending, sorted as in folders, or a single one; of a pack
    all pictures, folder by folder as its manifest names them, in each as they lie in the chunks.

    Args:
        words: URLs, folders of packs, and what :func:`find_images` takes.

    Raises:
        MlclError: if one of them names no image, or a store refuses or does not answer.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._parts: list[_Listed | _Packed] = []
        seen: set[str] = set()  # "a" and "./a" are the same
        for word in words:
            objects = _objects(word) if is_url(word) else {}
            if PACK in objects or is_pack(word):
                place = word.rstrip("/") if is_url(word) else os.path.abspath(word)
                self._parts += [] if place in seen else _packed(word)
                seen.add(place)
                continue
            for name, size in (objects or dict.fromkeys(find_images([word]), 0)).items():
                known = name if is_url(name) else os.path.abspath(name)
                if known in seen:
                    continue
                seen.add(known)
                listed = self._parts[-1] if self._parts else None
                if not isinstance(listed, _Listed):
                    self._parts.append(listed := _Listed())
                listed.names.append(name)
                listed.sizes.append(size)
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        part, at = self._place(index)
        return part.name(at)

    def content(self, index: int) -> bytearray | None:
        """See the base; MlclError if a store does not answer, or a chunk is damaged."""
        part, at = self._place(index)
        return part.content(at)

    @property
    def key(self) -> str:
        """See the base."""
        text = "\0\0".join(part.key for part in self._parts)
        return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def _place(self, index: int) -> tuple[_Listed | _Packed, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        return self._parts[number], index - (self._ends[number - 1] if number else 0)


def _objects(url: str) -> dict[str, int]:
    """The objects that a URL names, each with its bytes if these are known; PACK alone if it is that of a pack."""
    if is_image(url):
        return {url: 0}  # as it is: to ask for each object of a long list would take longer than to read it
    store = Store(url)
    found = store.names()
    if PACK in found:
        return {PACK: 0}
    if not found:
        raise MlclError(f"--images {url}: nothing is there")
    if "" in found:  # an object, whatever its ending
        return {url: found[""]}
    names = sorted(filter(is_image, found), key=lambda name: name.split("/"))
    if not names:
        if UNFINISHED in found:
            raise MlclError(f"--images {url}: an unfinished pack: the same mlcl pack command finishes it")
        raise MlclError(f"--images {url}: no image in there (by the endings: .jpg, .png, ...)")
    return {store.address(name): found[name] for name in names}


def _packed(place: str) -> list[_Packed]:
    try:
        from mlcl.data.pack import Pack
    except ImportError as error:
        raise MlclError(f"--images {place}: a pack needs {error.name or error}, which is not installed") from None
    return [_Packed(pictures) for pictures in Pack(place).parts.values()]


@cache
def _store(root: str) -> Store:
    return Store(root)


def _object(url: str) -> bytearray:
    """The content of an object; ImageError if it is not there, or may not be read."""
    kind, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    try:
        return bytearray(_store(f"{kind}://{bucket}").read(key))
    except FileNotFoundError:
        raise ImageError(f"{url}: no such image") from None
    except MlclError as error:
        answer = getattr(find_cause(error, PermissionError), "__cause__", None)
        code = getattr(answer, "response", {}).get("Error", {}).get("Code")
        if find_cause(error, PermissionError) is None or code in _BAD_KEYS:
            raise
        raise ImageError(str(error)) from None
