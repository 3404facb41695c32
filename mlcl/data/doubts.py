"""What in the labels of the splits would spoil a training or its numbers, told before it starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlcl.data.dataset import Samples
from mlcl.data.images import Pictures
from mlcl.data.labels import never_absent, some

_SEEN = {
    "val": "the checkpoint is then chosen for what it remembers",
    "test": "the test then measures memory",
}


def doubts(splits: Mapping[Any, Samples], classes: Sequence[str], hidden: bool = False) -> list[str]:
    """One line each: images or groups of train in val or test, classes without a known absence.

    ``hidden`` says that training labels were hidden on purpose, so that the table is not the reason.
    """
    train, lines = splits.get("train"), leaks(splits)
    if train is None:
        return []
    if constant := never_absent(train.targets, classes):
        again = "pack it again with" if isinstance(train.paths, Pictures) else "give"
        remedy = f"; if an empty cell of your table means absent, {again} --data.empty_cells absent"
        lines.append(
            f"train knows no image without {some(constant)}: while --model.unknown is ignore, the network learns to "
            f"predict it always, and it has no AP where this is so{'' if hidden else remedy}"
        )
    return lines


def leaks(splits: Mapping[Any, Samples]) -> list[str]:
    """One line each: images or groups of train in val or test. A pack's were looked for when it was made."""
    train, lines = splits.get("train"), list[str]()
    if train is None or isinstance(train.paths, Pictures):
        return []
    for split, seen in _SEEN.items():
        other = splits.get(split)
        if other is None or other is train or (split == "val" and other is splits.get("test")):
            continue
        if both := set(train.paths) & set(other.paths):
            lines.append(f"{len(both):,} images are in train and in {split}; {seen}")
        elif shared := set(train.groups or ()) & set(other.groups or ()):
            lines.append(f"{len(shared):,} groups, such as {min(shared)}, are in train and in {split}; {seen}")
    return lines


def contradiction(samples: Samples) -> Path | None:
    """A picture that is listed twice, with different labels."""
    if isinstance(samples.paths, Pictures) or len(set(samples.paths)) == len(samples.paths):
        return None
    first: dict[Path, int] = {}
    pairs = ((path, first.setdefault(path, row), row) for row, path in enumerate(samples.paths))
    targets = samples.targets
    return next((path for path, one, row in pairs if not np.array_equal(targets[one], targets[row])), None)
