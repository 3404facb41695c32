"""SpliceMix (arXiv 2311.15200): some images of a training step become grids of reduced images of the same step."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mlcl.system.seeding import derive

# Rows and columns, and how often: 1 x 2 with 0.3, 2 x 2 with 0.4, 2 x 3 with 0.3, lying or standing, as the authors do.
_GRIDS = {(1, 2): 0.15, (2, 1): 0.15, (2, 2): 0.4, (2, 3): 0.15, (3, 2): 0.15}
NO_IMAGE = -1  # in place of the position in the dataset
_MOST = max(rows * columns for rows, columns in _GRIDS)  # tiles
_STREAM = -1  # of random numbers; the augmentation's have the number of the view in this place


class Plan(NamedTuple):
    """One splice."""

    row: int  # of the batch: the image that it replaces
    grid: tuple[int, int]  # rows and columns
    tiles: tuple[int, ...]  # rows of the batch, the tiles from left to right and from top to bottom; one is its own


def draw(index: Tensor, share: float, seed: int, epoch: int) -> list[Plan]:
    """Which images of a step become splices, and of which images.

    An image becomes one with probability ``share``. That, its grid and its partners, which are other images of the
    step, are drawn by (seed, epoch, index). A grid has at most as many tiles as the step has images, so that a step of
    one image has no splice.

    Args:
        index: (B,) positions in the dataset, on the CPU.
        share: in [0, 1).
        seed: of the training.
        epoch: from 0.
    """
    count, plans = len(index), []
    weights = {grid: weight for grid, weight in _GRIDS.items() if grid[0] * grid[1] <= count}
    for row, image in enumerate(index.tolist() if weights else ()):
        number = derive(seed, epoch, image, _STREAM)
        if number >= share * 2**63:
            continue
        generator = torch.Generator().manual_seed(derive(number))
        chosen = int(torch.multinomial(torch.tensor([*weights.values()]), 1, generator=generator))
        grid = [*weights][chosen]
        others = [other for other in torch.randperm(count, generator=generator).tolist() if other != row]
        tiles = [row, *others[: grid[0] * grid[1] - 1]]
        order = torch.randperm(len(tiles), generator=generator).tolist()
        plans.append(Plan(row, grid, tuple(tiles[place] for place in order)))
    return plans


def shown(index: Tensor, plans: Sequence[Plan]) -> Tensor:
    """(B, 6) positions in the dataset of the images that each row of a step shows: a splice's tiles, else its own.

    Those of smaller grids are repeated, so that every step, on every process, has the same shape.

    Args:
        index: (B,) positions before the splicing.
        plans: any number.
    """
    tiles = index[:, None].repeat(1, _MOST)
    for plan in plans:
        tiles[plan.row] = index[[*(plan.tiles * _MOST)[:_MOST]]]
    return tiles


def splice(batch: dict[str, Any], plans: Sequence[Plan]) -> dict[str, Any]:
    """The batch with its splices, on its device; nothing waits for the device.

    Args:
        batch: ``image`` (B, 3, S, S) or (B, V, 3, S, S) uint8, of which all views get the same plan; ``target``
            (B, K) in {1, 0, -1}; ``index`` (B,); where pictures may be skipped ``readable`` (B,), of a splice the least
            of its tiles'. It is not changed.
        plans: at least one.

    Returns:
        The same, where each splice has the whole pictures of its tiles, reduced with antialiasing. A class is present
        if it is in a tile, else unknown if it is unknown in a tile, else absent. ``index`` is -1: a splice is no image
        of the dataset. Where the grid does not divide S, tiles differ by a pixel.
    """
    image, target, index = (batch[name].clone() for name in ("image", "target", "index"))
    # All tiles of one size are reduced together.
    places: dict[tuple[int, int], list[tuple[int, int, tuple[slice, slice]]]] = {}
    for plan in plans:
        for source, cell in zip(plan.tiles, _cells(*plan.grid, image.shape[-1]), strict=True):
            size = cell[0].stop - cell[0].start, cell[1].stop - cell[1].start
            places.setdefault(size, []).append((plan.row, source, cell))
    for size, tiles in places.items():
        whole = torch.stack([batch["image"][source] for _, source, _ in tiles])
        reduced = torch.unflatten(F.resize(whole.flatten(0, -4), [*size], antialias=True), 0, whole.shape[:-3])
        for (row, _, (down, right)), tile in zip(tiles, reduced, strict=True):
            image[row, ..., down, right] = tile
    # As many rows for each: repeating a tile changes no union.
    most = max(len(plan.tiles) for plan in plans)
    rows = chain(*((plan.tiles * most)[:most] for plan in plans))
    labels = torch.unflatten(torch.stack([batch["target"][row] for row in rows]), 0, (-1, most))
    union = torch.where(labels.amax(1) == 1, 1, labels.amin(1))  # no tile has it: -1 if any has -1
    for plan, found in zip(plans, union, strict=True):
        target[plan.row], index[plan.row] = found, NO_IMAGE
    changed = {"image": image, "target": target, "index": index}
    if "readable" in batch:  # a grid with a picture that could not be read says nothing of what is absent
        changed["readable"] = batch["readable"].clone()
        for plan in plans:
            changed["readable"][plan.row] = torch.stack([batch["readable"][tile] for tile in plan.tiles]).amin()
    return {**batch, **changed}


def _cells(rows: int, columns: int, side: int) -> list[tuple[slice, slice]]:
    """Where the tiles lie; together they cover the square."""
    down, right = ([slice(*ends) for ends in pairwise(side * n // parts for n in range(parts + 1))]
                   for parts in (rows, columns))  # fmt: skip
    return [(row, column) for row in down for column in right]
