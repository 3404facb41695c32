"""Which images the report shows, their thumbnails, and what the network says of them beyond its scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mlcl import viz
from mlcl.analysis import Floats
from mlcl.analysis.embeddings import entries, join
from mlcl.data.images import ImageError, read_image
from mlcl.viz import pages

if TYPE_CHECKING:
    from mlcl.inference import Model

MOST_ROWS = 1500  # of embeddings in the projection
_SIDE = 224  # pixels of the longer side of a thumbnail
_BATCH = 32


@dataclass(frozen=True)
class Errors:
    """The worst images of a class, by row, worst first."""

    absent: list[int]  # the class is absent, and scores highest
    present: list[int]  # the class is present, and scores lowest


@dataclass
class Seen:
    """What the network says of the chosen images."""

    attention: dict[tuple[int, int], NDArray[np.float32]] = field(default_factory=dict)  # (row, class) -> (h, w)
    embeddings: Floats = field(default_factory=lambda: np.empty((0, 0)))  # (R, D), unit length
    owners: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # (R,) class of each
    shared: bool = True  # whether every class has the same embedding


def worst(probabilities: Floats, targets: NDArray[Any], most: int = 4) -> list[Errors]:
    """The worst images of every class, whatever the threshold says of them; unknown entries are left out.

    Args:
        probabilities: (N, K).
        targets: (N, K) in {1, 0, -1}.
        most: of each kind.
    """

    def first(scores: Floats, entered: NDArray[np.bool_]) -> list[int]:
        rows = np.flatnonzero(entered)
        return [int(row) for row in rows[np.argsort(scores[rows], kind="stable")[:most]]]

    columns = zip(probabilities.T, targets.T, strict=True)
    return [Errors(first(-score, target == 0), first(score, target == 1)) for score, target in columns]


def choose(errors: Sequence[Errors], count: int, most: int) -> tuple[list[int], list[int]]:
    """Which of the images go through the network.

    Half of the room is for the worst errors, every class's worst first. The rest is drawn at random (always the same):
    a projection of the errors alone would show the hard images only.

    Args:
        errors: of every class that is shown.
        count: N.
        most: how many images at most.

    Returns:
        Rows for attention maps, and rows for embeddings; some may be in both.
    """
    ranked = [row for rank in zip_longest(*(e.absent for e in errors), *(e.present for e in errors)) for row in rank]
    hard = list(dict.fromkeys(row for row in ranked if row is not None))[: most // 2]
    drawn: list[int] = []
    together = set(hard)
    for row in np.random.default_rng(0).permutation(count).tolist():
        if len(together | {row}) > most:
            break
        together.add(row)
        drawn.append(row)
    return hard, drawn


def look(
    model: "Model", paths: dict[int, Path], maps: dict[int, list[int]], drawn: Sequence[int], targets: NDArray[Any]
) -> Seen:
    """Send images through the network, a batch at a time, and keep what the report needs.

    Args:
        model: from :func:`mlcl.inference.load`.
        paths: row to file, of every row below.
        maps: row to the classes whose attention is wanted.
        drawn: rows whose embeddings are wanted, for the classes that are present.
        targets: (N, K).
    """
    seen, parts = Seen(), []
    rows, sampled = sorted({*maps, *drawn}), set(drawn)
    for start in range(0, len(rows), _BATCH):
        read = {row: _read(paths[row]) for row in rows[start : start + _BATCH]}
        whole = {row: picture for row, picture in read.items() if picture is not None}  # damaged ones are left out
        if not whole:
            continue
        out = model(whole.values(), batch_size=_BATCH)
        found = entries(out.embeddings, targets[[*whole]], [*whole])
        seen.shared &= found.shared
        parts.append(found.take(np.isin(found.rows, [*sampled])))
        if out.attention is not None:
            for place, row in enumerate(whole):
                for k in maps.get(row, ()):
                    seen.attention[row, k] = out.attention[place, k].numpy()
    if parts and len(every := join(parts)):
        kept = every.take(np.sort(np.random.default_rng(0).permutation(len(every))[:MOST_ROWS]))
        seen.embeddings, seen.owners = kept.vectors.astype(np.float64), kept.owners
    return seen


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of a picture."""

    source: str  # data: address
    width: int  # as shown: a picture smaller than a thumbnail is enlarged
    height: int


def thumbnail(path: Path) -> Thumbnail | None:
    """A small copy in the picture's own proportions; None if it cannot be read."""
    pixels = _read(path)
    if pixels is None:
        return None
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    whole, scale = picture.size, _SIDE / max(picture.size)
    picture.thumbnail((_SIDE, _SIDE))
    return Thumbnail(pages.jpeg(picture, quality=75), *(max(1, round(side * scale)) for side in whole))


def _read(path: Path) -> Tensor | None:
    try:
        return read_image(path)
    except ImageError:
        return None


def layer(weights: NDArray[np.float32] | None) -> str | None:
    """An attention map (h, w) as a ``data:`` address, for the page to stretch over a thumbnail."""
    return None if weights is None else pages.png(viz.overlay(weights))
