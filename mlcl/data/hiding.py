"""Labels that are hidden from a training, to measure what missing labels cost."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcl.data.dataset import Samples
from mlcl.data.images import Pictures
from mlcl.data.labels import PRESENT, UNKNOWN
from mlcl.errors import MlclError

_AT_ONCE = 1 << 18  # entries
_STEP, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def check(known_share: float, single_positive: bool) -> None:
    """Raise MlclError for a share outside of (0, 1], and for both ways of hiding at once."""
    if not 0 < known_share <= 1:
        raise MlclError(f"data.known_share is {known_share}, it must lie in (0, 1]")
    if single_positive and known_share < 1:
        raise MlclError("data.known_share and data.single_positive both hide labels: give one of them")


def hide(samples: Samples, root: Path, seed: int, known_share: float, single_positive: bool) -> tuple[Samples, str]:
    """The samples with some of their labels made unknown, and how many those are, in words.

    What is hidden depends on the seed, the image's name below ``root`` and the number of the class alone: not on the
    order of the images, nor on which of them there are. A smaller share hides all that a larger one does, and more.

    Args:
        samples: N images with (N, K) targets, which are not changed.
        root: folder of the dataset.
        seed: of the choice.
        known_share: probability with which each known label stays known, one independently of the other.
        single_positive: keep one of an image's present labels, each with the same probability, and hide all others; an
            image without a present label becomes unknown as a whole.
    """
    if known_share == 1 and not single_positive:
        return samples, ""
    targets, keys = samples.targets.copy(), _keys(samples.paths, root, seed)
    block, hidden = max(1, _AT_ONCE // max(targets.shape[1], 1)), 0
    for start in range(0, len(targets), block):
        part = targets[start : start + block]  # a view
        drawn = _drawn(keys[start : start + block], part.shape[1])
        if single_positive:
            ranked = np.where(part == PRESENT, drawn, np.inf)
            stays = np.isfinite(ranked) & (np.arange(part.shape[1]) == ranked.argmin(1, keepdims=True))
        else:
            stays = drawn < known_share
        hides = ~stays & (part != UNKNOWN)
        hidden += int(hides.sum())
        part[hides] = UNKNOWN
    known = int((samples.targets != UNKNOWN).sum())
    why = "single_positive" if single_positive else f"known_share {known_share:g}"
    return samples._replace(targets=targets), f"{why}: {hidden:,} of {known:,} known labels are hidden"


def _keys(paths: Sequence[Path], root: Path, seed: int) -> NDArray[np.uint64]:
    """(N,) a hash of the seed and each name below the root, links unresolved; of one elsewhere, of its whole path."""
    prefix = os.path.join(os.path.abspath(root), "")
    texts = (os.path.abspath(path).removeprefix(prefix).replace(os.sep, "/") for path in paths)
    names: Iterable[bytes] = (text.encode(errors="surrogateescape") for text in texts)
    if isinstance(paths, Pictures):
        names = paths.encoded_names
    start, keys = hashlib.blake2b(f"{seed}\n".encode(), digest_size=8), bytearray()
    for name in names:
        digest = start.copy()
        digest.update(name)
        keys += digest.digest()
    return np.frombuffer(keys, dtype="<u8").astype(np.uint64)


def _drawn(keys: NDArray[np.uint64], classes: int) -> NDArray[np.float64]:
    """(N, K) numbers in [0, 1), as if drawn: SplitMix64 at its k-th step from each key (Steele et al., OOPSLA 2014)."""
    mixed = keys[:, None] + np.arange(1, classes + 1, dtype=np.uint64) * _STEP  # modulo 2 ** 64
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)) * 2.0**-53)
