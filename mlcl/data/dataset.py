"""The samples of a split: pixels, targets, index; and how they become a batch."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mlcl.data.augment import Augmentation
from mlcl.data.bad_images import BadImages
from mlcl.data.groups import together
from mlcl.data.images import ImageError, Pictures, read_at
from mlcl.data.labels import UNKNOWN, Targets
from mlcl.errors import MlclError
from mlcl.system.seeding import seeded

Size = tuple[int, int]  # height and width in pixels
Pixels = Callable[[int], tuple[Tensor, Size]]  # index -> input of the first step (3, h, w), size of the original
_GREY = 128


class Samples(NamedTuple):
    """The images of a split and their labels."""

    paths: Sequence[Path]  # N
    targets: Targets  # (N, K) int8 in {1, 0, -1}
    groups: Sequence[str] | None = None  # N; images of a group, such as a patient, are never divided at random
    source: str = ""  # the split of the dataset's files that they come from: validation images may be held out

    def names(self, root: Path) -> list[str]:
        """The paths of the files, relative to the dataset's folder where they lie in it."""
        if isinstance(self.paths, Pictures):
            return [os.fsdecode(name) for name in self.paths.encoded_names.tolist()]
        return [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in self.paths]

    def among(self, others: "Samples") -> NDArray[np.bool_]:
        """(N,) which of the images are others', too."""
        if isinstance(self.paths, Pictures) and isinstance(others.paths, Pictures):
            return np.isin(self.paths.encoded_names, others.paths.encoded_names)
        known = set(others.paths)
        return np.fromiter((path in known for path in self.paths), dtype=bool, count=len(self.paths))

    def take(self, rows: Any) -> "Samples":
        """The samples at these row numbers, or where a boolean (N,) mask is true."""
        rows = np.arange(len(self.paths))[rows]
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        paths = self.paths.take(rows) if isinstance(self.paths, Pictures) else [self.paths[row] for row in rows]
        return Samples(paths, self.targets[rows], groups, self.source)

    def hold_out(self, fraction: float, seed: int) -> tuple["Samples", "Samples"]:
        """A random share of the samples apart from the rest: the rest, and the share.

        Images that belong together (see :func:`mlcl.data.groups.together`) are on one side.

        Raises:
            MlclError: if all of them are in groups larger than the share.
        """
        count, wanted = len(self.paths), round(fraction * len(self.paths))
        first = together(self.paths, self.groups) if wanted else np.arange(count)
        order, size = np.random.default_rng(seed).permutation(count), np.bincount(first, minlength=count)
        chosen, room = np.zeros(count, dtype=bool), wanted
        for row in order:  # a group has the place of its first image
            if 0 < size[row] <= room:
                chosen[row], room = True, room - size[row]
        if wanted and not chosen.any():
            raise MlclError(
                f"a share of {fraction:g} of {count:,} images (data.val_fraction, data.test_fraction) is {wanted:,}, "
                f"but those that belong together (copies, data.group_column) are at least {size[size > 0].min():,}"
            )
        return self.take(~chosen[first]), self.take(chosen[first])


class ImageDataset(Dataset[dict[str, Tensor]]):
    """Augmented pictures, targets and indices.

    Args:
        samples: paths and targets.
        augmentation: any picture to (3, S, S).
        views: V, number of times each picture is augmented; 1 gives no view axis.
        seed: of the augmentation.
        pixels: a cache; by default each picture is decoded from its file.
        on_device: leave all steps that take pictures of one size to :meth:`finish`, on the whole batch.
        bad: the list of pictures that cannot be read; they become grey ones with unknown labels. By default they are an
            error.
        reading: arguments of :func:`read_image`.
    """

    def __init__(
        self,
        samples: Samples,
        augmentation: Augmentation,
        views: int = 1,
        seed: int = 0,
        pixels: Pixels | None = None,
        on_device: bool = False,
        bad: BadImages | None = None,
        reading: dict[str, Any] | None = None,
    ) -> None:
        self.samples, self.augmentation, self.views, self.seed, self.bad = samples, augmentation, views, seed, bad
        self.pixels, self.reading = pixels or self._decoded, reading or {}
        steps = len(augmentation.steps)
        # Pictures of different sizes make no batch: a step that crops the original is done here.
        originals = pixels is None and augmentation.crops_original
        self.here = (1 if originals else 0) if on_device else steps  # number of steps done by __getitem__

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        """The sample of ``(epoch, index)`` (a plain index means epoch 0).

        Returns:
            ``image`` (3, S, S) or (V, 3, S, S) uint8, ``target`` (K,) int8, ``index`` () int64. With steps left to the
            device also ``drawn`` (V, P) float64, the random numbers of all steps; S may be another until then. Where
            pictures may be skipped also ``readable`` () int64, 0 for a skipped one.
        """
        sample = self._sample(key)
        return {**sample, "image": sample["image"].clone()}  # it may be mapped memory of the cache

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, Tensor]]:
        """The samples of a batch, for torch's loader; not cloned, since collating copies them."""
        return [self._sample(key) for key in keys]

    def _sample(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        target, readable = torch.from_numpy(self.samples.targets[index]), True
        try:
            picture, size = self.pixels(index)
            if not size[0]:  # not readable when the cache was written: read again, for the reason
                picture, size = self._decoded(index)
                picture = self.augmentation.resized(picture)
        except ImageError as error:
            if self.bad is None:
                raise error.with_remedy(self.samples.paths[index]) from error
            path, side = self.samples.paths[index], self.augmentation.side
            self.bad.add(path, str(error).removeprefix(f"{path}: "))
            picture, size = torch.full((3, side, side), _GREY, dtype=torch.uint8), (side, side)
            target, readable = torch.full_like(target, UNKNOWN), False
        views, drawn = [], []
        for view in range(self.views):
            with seeded(self.seed, epoch, index, view):
                drawn.append(self.augmentation.draw(*size))
            views.append(self.augmentation.apply(picture[None], drawn[view][None], last=self.here)[0])
        sample = {
            "image": torch.stack(views) if self.views > 1 else views[0],
            "target": target,
            "index": torch.tensor(index),
        }
        if self.bad is not None:
            sample["readable"] = torch.tensor(int(readable))
        return sample | ({"drawn": torch.stack(drawn)} if self.here < len(self.augmentation.steps) else {})

    def finish(self, image: Tensor, drawn: Tensor) -> Tensor:
        """The remaining steps, on (B, 3, H, W) or (B, V, 3, H, W) uint8; ``drawn`` (B, V, P) is on the CPU."""
        done = self.augmentation.apply(image.flatten(0, -4), drawn.flatten(0, 1), first=self.here)
        return torch.unflatten(done, 0, image.shape[:-3])

    def _decoded(self, index: int) -> tuple[Tensor, Size]:
        picture = read_at(self.samples.paths, index, **self.reading)
        height, width = picture.shape[-2:]
        return self.augmentation.square(picture), (height, width)


def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch whose images are (B, 3, S, S) or (B, V, 3, S, S) in channels-last order in memory.

    Decoding and resizing leave the pixels in that order; changing it here would cost more than the copy itself.
    """
    moved = [{**sample, "image": torch.as_tensor(sample["image"]).movedim(-3, -1)} for sample in samples]
    batch: dict[str, Tensor] = default_collate(moved)
    return {**batch, "image": batch["image"].movedim(-1, -3)}
