"""The target code (1 present, 0 absent, -1 unknown), encoding into it, and a summary of a split."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlcl.errors import MlclError

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
Targets = NDArray[np.int8]
_AT_ONCE = 1 << 24  # entries: a table of millions of images may be mapped, and larger than the memory


class Counted(NamedTuple):
    """What is in (N, K) targets."""

    present: NDArray[np.int64]  # (K,) images with each class
    absent: NDArray[np.int64]  # (K,)
    empty: int  # images in which nothing is known to be present


def counted(targets: Targets) -> Counted:
    """Count the entries of (N, K) targets, some rows at a time."""
    found = Counted(np.zeros(targets.shape[1], dtype=np.int64), np.zeros(targets.shape[1], dtype=np.int64), 0)
    rows = max(1, _AT_ONCE // max(targets.shape[1], 1))
    for start in range(0, len(targets), rows):
        present, absent = (targets[start : start + rows] == code for code in (PRESENT, ABSENT))
        found = Counted(
            found.present + np.count_nonzero(present, axis=0),
            found.absent + np.count_nonzero(absent, axis=0),
            found.empty + int(np.count_nonzero(~present.any(1))),
        )
    return found


def encode(present: Sequence[Iterable[int]], num_classes: int) -> Targets:
    """From each image's class indices to (N, K) int8 targets in {1, 0}."""
    targets = np.full((len(present), num_classes), ABSENT, dtype=np.int8)
    for row, classes in zip(targets, present, strict=True):
        row[list(classes)] = PRESENT
    return targets


def from_voc(flags: NDArray[np.int64], difficult: str) -> Targets:
    """Decode PASCAL's image-level flags, of any shape: 1 present, -1 absent, 0 present but only "difficult".

    ``difficult`` is ``ignore``, which makes a 0 unknown, or ``negative``, which makes it absent.
    """
    if not np.isin(flags, (1, 0, -1)).all():
        raise MlclError(f"VOC flags are 1, 0 or -1, found {sorted(set(np.unique(flags)) - {1, 0, -1})}")
    unsure = UNKNOWN if difficult == "ignore" else ABSENT
    return np.where(flags == 1, PRESENT, np.where(flags == 0, unsure, ABSENT)).astype(np.int8)


def measurable(targets: Targets) -> NDArray[np.bool_]:
    """(K,) whether a class has an average precision: in (N, K) targets it is present somewhere, and absent somewhere.

    Without a known absence every ranking is perfect, whatever the network says.
    """
    found = counted(targets)
    return (found.present > 0) & (found.absent > 0)


def never_absent(targets: Targets, classes: Sequence[str]) -> list[str]:
    """The classes that are present in some of (N, K) targets and known to be absent in none."""
    return _never_absent(counted(targets), classes)


def _never_absent(found: Counted, classes: Sequence[str]) -> list[str]:
    return [name for name, n, absent in zip(classes, found.present, found.absent, strict=True) if n and not absent]


def describe(targets: Targets, classes: Sequence[str]) -> str:
    """Counts in one line: images, labels per image, images without a label, unknown entries, absent classes."""
    found = counted(targets)
    present = int(found.present.sum())
    parts = [f"{len(targets):,} images", f"{present / max(len(targets), 1):.2f} labels per image"]
    if found.empty:
        parts.append(f"{found.empty:,} without a label")
    if unknown := targets.size - present - int(found.absent.sum()):
        parts.append(f"{unknown:,} unknown entries")
    if missing := [name for name, images in zip(classes, found.present, strict=True) if not images]:
        parts.append(f"no positive for {some(missing)}")
    if constant := _never_absent(found, classes):
        parts.append(f"nothing known to be absent for {some(constant)}")
    return ", ".join(parts)


def some(names: Sequence[str]) -> str:
    """The first eight names, and how many more there are."""
    return f"{', '.join(names[:8])}{f' and {len(names) - 8} more' * (len(names) > 8)}"
