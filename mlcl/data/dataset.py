"""Samples of a split as the batch contract wants them: pixels, targets, index."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mlcl.data.augment import Augmentation
from mlcl.data.bad_images import BadImages
from mlcl.data.images import ImageError, read_image
from mlcl.data.labels import UNKNOWN, Targets
from mlcl.system.seeding import seeded

Size = tuple[int, int]  # height and width in pixels
_GREY = 128
Pixels = Callable[[int], tuple[Tensor, Size]]  # index to what the steps begin with, and the size of the original


class Samples(NamedTuple):
    """The images of a split and what is known of them."""

    paths: Sequence[Path]  # N
    targets: Targets  # (N, K) int8 in {1, 0, -1}

    def take(self, rows: Any) -> "Samples":
        """The samples at these row numbers, or where a boolean (N,) mask is true."""
        rows = np.arange(len(self.paths))[rows]
        return Samples([self.paths[row] for row in rows], self.targets[rows])


class ImageDataset(Dataset[dict[str, Tensor]]):
    """Pictures and targets as the batch contract wants them.

    Args:
        samples: paths and targets.
        augmentation: any picture to (3, S, S).
        views: number of times each picture is augmented; 1 gives no view axis.
        seed: of the augmentation.
        pixels: where pictures come from; by default each is decoded from its file.
        on_device: leave what can wait to :meth:`finish`, on the whole batch.
        bad: where pictures that cannot be read are noted; they come as grey ones of which nothing is known. By default
            they are an error.
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
    ) -> None:
        self.samples, self.augmentation, self.views, self.seed, self.bad = samples, augmentation, views, seed, bad
        self.pixels = pixels or self._decoded
        steps = len(augmentation.steps)
        # Pictures of different sizes make no batch: where the first step sees the original, it belongs here.
        originals = pixels is None and augmentation.crops_original
        self.here = (1 if originals else 0) if on_device else steps  # so many steps are done in this process

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        """The sample of ``(epoch, index)`` (a plain index means epoch 0).

        Returns:
            ``image`` (3, S, S) or (V, 3, S, S) uint8, ``target`` (K,) int8, ``index`` () int64; with steps left to the
            device also ``drawn`` (V, P) float64, what they need to know, and S may be another until then.
        """
        sample = self._sample(key)
        return {**sample, "image": sample["image"].clone()}  # it may be a cache's own memory

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, Tensor]]:
        """The samples of a batch, for torch's loader, which copies them into one tensor at once."""
        return [self._sample(key) for key in keys]

    def _sample(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        target = torch.from_numpy(self.samples.targets[index])
        try:
            picture, size = self.pixels(index)
            if not size[0]:  # the cache has none of it
                picture, size = self._read_again(index)
        except ImageError as error:
            if self.bad is None:
                raise error.with_remedy(self.samples.paths[index]) from error
            path, side = self.samples.paths[index], self.augmentation.side
            self.bad.add(path, str(error).removeprefix(f"{path}: "))
            picture, size = torch.full((3, side, side), _GREY, dtype=torch.uint8), (side, side)
            target = torch.full_like(target, UNKNOWN)
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
        return sample | ({"drawn": torch.stack(drawn)} if self.here < len(self.augmentation.steps) else {})

    def finish(self, image: Tensor, drawn: Tensor) -> Tensor:
        """The steps that were left out, on a batch.

        Args:
            image: (B, 3, H, W) or (B, V, 3, H, W) uint8, on any device.
            drawn: (B, V, P), on the CPU.

        Returns:
            The same with S for H and W.
        """
        done = self.augmentation.apply(image.flatten(0, -4), drawn.flatten(0, 1), first=self.here)
        return torch.unflatten(done, 0, image.shape[:-3])

    def _decoded(self, index: int) -> tuple[Tensor, Size]:
        picture = read_image(self.samples.paths[index])
        height, width = picture.shape[-2:]
        return self.augmentation.square(picture), (height, width)

    def _read_again(self, index: int) -> tuple[Tensor, Size]:
        """For the reason, or because the file is there by now."""
        picture = read_image(self.samples.paths[index])
        height, width = picture.shape[-2:]
        return self.augmentation.resized(picture), (height, width)


def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch, its pixels left as decoders and resizing leave them, the three channels of a pixel side by side.

    To sort them into planes here costs more than the copy itself, and the network wants ``channels_last`` anyway.
    """
    moved = [{**sample, "image": torch.as_tensor(sample["image"]).movedim(-3, -1)} for sample in samples]
    batch: dict[str, Tensor] = default_collate(moved)
    return {**batch, "image": batch["image"].movedim(-1, -3)}
