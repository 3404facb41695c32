"""Which images belong together: the same file, a copy of it, or the same group, such as a patient or a video."""

import hashlib
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_BEGINNING = 4096  # bytes, enough to tell most files of the same size apart


def together(
    paths: Sequence[Path], groups: Sequence[str] | None = None, keys: Sequence[Hashable] | None = None
) -> NDArray[np.int64]:
    """For each of N images the row of the first one that it belongs together with, itself if it is the first: (N,).

    Files that do not exist, or are empty, are no copies of others. ``keys``, equal for equal files and None for those
    that are no copies, save the reading of all whose key no other has; by default they are the sizes.
    """
    contents = _contents(paths, [_size(path) for path in paths] if keys is None else keys)
    known: list[Sequence[Hashable]] = [[os.path.abspath(path) for path in paths], contents]
    pairs = [pair for keys in (*known, *([groups] if groups is not None else [])) for pair in _same(keys)]
    rows, firsts = zip(*pairs, strict=True) if pairs else ((), ())
    linked = coo_matrix((np.ones(len(rows), dtype=bool), (rows, firsts)), shape=(len(paths), len(paths)))
    _, label = connected_components(linked, directed=False)
    _, first, place = np.unique(label, return_index=True, return_inverse=True)
    return np.asarray(first[place], dtype=np.int64)


def _same(keys: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Each later row of a key with the first one; None is no key."""
    first: dict[Hashable, int] = {}
    pairs = [(row, first.setdefault(key, row)) for row, key in enumerate(keys) if key is not None]
    return [(row, before) for row, before in pairs if row != before]


def _contents(paths: Sequence[Path], keys: Sequence[Hashable]) -> Sequence[Hashable]:
    """A key of each file's content, None where no other file has it; only files of the same key are read."""
    for most in (_BEGINNING, -1):
        count = Counter(keys)
        again = [key is not None and count[key] > 1 for key in keys]
        digests = (_digest(path, most) if more else None for path, more in zip(paths, again, strict=True))
        keys = [None if digest is None else (key, digest) for key, digest in zip(keys, digests, strict=True)]
    return keys


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size or None  # empty files are failures, not copies
    except OSError:  # reading the image reports it
        return None


def _digest(path: Path, most: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.blake2b(file.read(most), digest_size=16).digest()
    except OSError:
        return None
