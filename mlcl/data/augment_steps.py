"""The random steps of an augmentation: each draws a few numbers per picture, then applies them to a batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


class Step(ABC):
    """One random operation."""

    numbers: int  # drawn per picture

    @abstractmethod
    def draw(self, height: int, width: int) -> Sequence[float]:
        """Random numbers for one picture whose file has this height and width in pixels."""

    @abstractmethod
    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The operation on images (B, 3, H, W) uint8, which are not changed.

        ``drawn``, (B, numbers) float64, is on the CPU, so that Python need not wait for the GPU to decide what to do.
        """


class Crop(Step):
    """A crop, resized to ``size`` pixels square; drawn as top, left, height and width as shares of the picture."""

    numbers = 4

    def __init__(self, size: int, mode: InterpolationMode) -> None:
        self.size, self.mode = size, mode

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, size, size)."""
        height, width = images.shape[-2:]
        edges = drawn.clone()
        edges[:, 2:] += edges[:, :2]  # top, left, bottom, right: each is rounded, so that they stay inside
        edges = (edges * torch.tensor([height, width, height, width])).round().long()
        crops = [
            # Copied in channels-last order: resizing a view of the picture takes twice as long.
            image[:, top : max(bottom, top + 1), left : max(right, left + 1)].movedim(0, -1).contiguous().movedim(-1, 0)
            for image, (top, left, bottom, right) in zip(images, edges.tolist(), strict=True)
        ]
        crops = [F.resize(crop, [self.size] * 2, self.mode, antialias=True) for crop in crops]
        return crops[0][None] if len(crops) == 1 else torch.stack(crops)


class RandomResizedCrop(Crop):
    """Torchvision's: a random share of the area, at least ``smallest``, in an aspect ratio between 3/4 and 4/3."""

    def __init__(self, size: int, mode: InterpolationMode, smallest: float) -> None:
        super().__init__(size, mode)
        self.library = v2.RandomResizedCrop(size, scale=(smallest, 1))

    def draw(self, height: int, width: int) -> Sequence[float]:
        """The same random numbers as in torchvision."""
        box: dict[str, int] = self.library.make_params([torch.empty(1).expand(3, height, width)])
        return box["top"] / height, box["left"] / width, box["height"] / height, box["width"] / width


class MultiScaleCrop(Crop):
    """A crop from a square of ``side`` pixels at one of 19 pairs of scales and 13 offsets (SADCL's second stage)."""

    def __init__(self, size: int, mode: InterpolationMode, side: int) -> None:
        super().__init__(size, mode)
        self.side, scales = side, (1, 0.875, 0.75, 0.66, 0.5)
        self.pairs = [(scales[i], scales[j]) for i in range(5) for j in range(5) if abs(i - j) <= 2]
        quarters = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4)] + [(1, 1), (1, 3), (3, 1), (3, 3)]
        self.offsets = [(i / 4, j / 4) for i, j in quarters]

    def draw(self, height: int, width: int) -> Sequence[float]:
        """A random pair of scales and a random offset."""
        scales = self.pairs[int(torch.randint(len(self.pairs), ()))]
        down, right = self.offsets[int(torch.randint(len(self.offsets), ()))]
        tall, wide = (max(1, round(self.side * scale)) for scale in scales)
        box = round((self.side - tall) * down), round((self.side - wide) * right), tall, wide
        return [length / self.side for length in box]


class Flip(Step):
    """Mirrored left to right with a probability; the random number is torchvision's."""

    numbers = 1

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def draw(self, height: int, width: int) -> Sequence[float]:
        """1 to mirror, else 0."""
        return [float(torch.rand(1) < self.probability)]

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """(B, 3, H, W) to the same."""
        chosen = drawn[:, 0] > 0
        if not chosen.any():
            return images
        return torch.where(to_device(chosen, images)[:, None, None, None], images.flip(-1), images)


class Cutout(Step):
    """A square hole of random colour at a random centre, cut off at the border (DeVries and Taylor, 2017)."""

    numbers = 5

    def __init__(self, length: int, side: int) -> None:
        self.length, self.side = length, side  # of the hole and of the square pictures, in pixels

    def draw(self, height: int, width: int) -> Sequence[float]:
        """Top and left in pixels, three channels of the colour."""
        corner = [float(torch.randint(self.side, ())) - self.length // 2 for _ in range(2)]
        return [*corner, *torch.randint(256, (3,)).tolist()]

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """(B, 3, side, side) to the same."""
        images = images.clone()
        colours = to_device(drawn[:, 2:].to(torch.uint8), images)
        # A slice per picture instead of one mask for all: only the hole's pixels are written.
        for image, (top, left), colour in zip(images, drawn[:, :2].long().tolist(), colours, strict=True):
            hole = image[:, max(top, 0) : max(top + self.length, 0), max(left, 0) : max(left + self.length, 0)]
            hole.copy_(colour[:, None, None].expand_as(hole))
        return images


def to_device(values: Tensor, like: Tensor) -> Tensor:
    """CPU values copied to the device of ``like``, without waiting for it."""
    return values.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else values.to(like.device)
