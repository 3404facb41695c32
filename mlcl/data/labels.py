"""The target code (1 present, 0 absent, -1 unknown), encoding into it, and a summary of a split."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlcl.errors import MlclError

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
Targets = NDArray[np.int8]


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
    """Which classes (K,) of targets (N, K) have an average precision: those with a positive and a known negative."""
    return np.asarray((targets == PRESENT).any(0) & (targets == ABSENT).any(0))


def describe(targets: Targets, classes: Sequence[str]) -> str:
    """Counts in one line: images, labels per image, images without a label, unknown entries, absent classes."""
    present = targets == PRESENT
    parts = [f"{len(targets):,} images", f"{present.sum() / max(len(targets), 1):.2f} labels per image"]
    if empty := int((~present.any(1)).sum()):
        parts.append(f"{empty:,} without a label")
    if unknown := int((targets == UNKNOWN).sum()):
        parts.append(f"{unknown:,} unknown entries")
    if missing := [name for name, seen in zip(classes, present.any(0), strict=True) if not seen]:
        parts.append(f"no positive for {', '.join(missing[:8])}{f' and {len(missing) - 8} more' * (len(missing) > 8)}")
    return ", ".join(parts)
