"""Augmentation sets by name, as in the papers' recipes; all on uint8, all sizes from ``image_size``.

A step draws a few numbers for each picture, on the CPU and from torch's generator alone, which the dataset seeds for
every (epoch, index, view). It applies them to a batch, wherever that lies: to one picture in a loader's process, or to
a whole batch on the GPU (``data.augment_on: device``). The numbers are the same, so where it happens changes a picture
by rounding only.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mlcl.data import rand_augment
from mlcl.data.rand_augment import to_device
from mlcl.errors import MlclError

Transform = Callable[[Tensor], Tensor]


class Step(ABC):
    """One random operation."""

    numbers: int  # drawn per picture

    @abstractmethod
    def draw(self, height: int, width: int) -> Sequence[float]:
        """The numbers for one picture.

        Args:
            height: in pixels, of the picture as it was read.
            width: the same.
        """

    @abstractmethod
    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The operation on a batch.

        Args:
            images: (B, 3, H, W) uint8, on any device; left as it is.
            drawn: (B, numbers) float64, on the CPU: what depends on them is decided without asking the device.
        """


class Crop(Step):
    """A part of the picture, resized to a square. What is drawn are top, left, height and width as shares of it.

    Args:
        size: side of the result in pixels.
        mode: interpolation.
    """

    numbers = 4

    def __init__(self, size: int, mode: InterpolationMode) -> None:
        self.size, self.mode = size, mode

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, size, size)."""
        height, width = images.shape[-2:]
        edges = drawn.clone()
        edges[:, 2:] += edges[:, :2]  # top, left, bottom, right: rounded each, they stay inside
        edges = (edges * torch.tensor([height, width, height, width])).round().long()
        crops = [
            # Copied, channels side by side: of a mere view the resizing takes and gives planes, twice as slowly.
            image[:, top : max(bottom, top + 1), left : max(right, left + 1)].movedim(0, -1).contiguous().movedim(-1, 0)
            for image, (top, left, bottom, right) in zip(images, edges.tolist(), strict=True)
        ]
        crops = [F.resize(crop, [self.size] * 2, self.mode, antialias=True) for crop in crops]
        return crops[0][None] if len(crops) == 1 else torch.stack(crops)


class RandomResizedCrop(Crop):
    """Torchvision's: a random share of the area in a random aspect ratio between 3/4 and 4/3.

    Args:
        size: side of the result in pixels.
        mode: interpolation.
        smallest: share of the area.
    """

    def __init__(self, size: int, mode: InterpolationMode, smallest: float) -> None:
        super().__init__(size, mode)
        self.smallest = smallest
        self.library = v2.RandomResizedCrop(size, scale=(smallest, 1))

    def draw(self, height: int, width: int) -> Sequence[float]:
        """As torchvision draws it."""
        box: dict[str, int] = self.library.make_params([torch.empty(1).expand(3, height, width)])
        return box["top"] / height, box["left"] / width, box["height"] / height, box["width"] / width


class MultiScaleCrop(Crop):
    """A crop at a random pair of scales and one of 13 fixed offsets (SADCL's second stage), from a square.

    Args:
        size: side of the result in pixels.
        mode: interpolation.
        side: of the square that is cropped.
        scales: crop sides as shares of that side.
        max_distort: how many places in ``scales`` width and height may lie apart.
    """

    def __init__(
        self,
        size: int,
        mode: InterpolationMode,
        side: int,
        scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66, 0.5),
        max_distort: int = 2,
    ) -> None:
        super().__init__(size, mode)
        self.side, places = side, range(len(scales))
        self.pairs = [(scales[i], scales[j]) for i in places for j in places if abs(i - j) <= max_distort]
        quarters = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4)] + [(1, 1), (1, 3), (3, 1), (3, 3)]
        self.offsets = [(i / 4, j / 4) for i, j in quarters]

    def draw(self, height: int, width: int) -> Sequence[float]:
        """One of 19 pairs of scales, one of 13 offsets."""
        scales = self.pairs[int(torch.randint(len(self.pairs), ()))]
        down, right = self.offsets[int(torch.randint(len(self.offsets), ()))]
        tall, wide = (max(1, round(self.side * scale)) for scale in scales)
        box = round((self.side - tall) * down), round((self.side - wide) * right), tall, wide
        return [length / self.side for length in box]


class Flip(Step):
    """Mirrored, left to right, half of the time."""

    numbers = 1

    def draw(self, height: int, width: int) -> Sequence[float]:
        """Whether: 0 or 1; drawn as torchvision does."""
        return [float(torch.rand(1) < 0.5)]

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, some of them mirrored."""
        chosen = drawn[:, 0] > 0
        if not chosen.any():
            return images
        mirrored = images.flip(-1)
        return (
            mirrored if chosen.all() else torch.where(to_device(chosen, images)[:, None, None, None], mirrored, images)
        )


class Cutout(Step):
    """One square hole of random colour at a random centre, cut off at the border (DeVries and Taylor, 2017).

    Args:
        length: side of the hole in pixels.
        side: of the square pictures that get one.
    """

    numbers = 5  # top, left, and the three channels of the colour

    def __init__(self, length: int, side: int) -> None:
        self.length, self.side = length, side

    def draw(self, height: int, width: int) -> Sequence[float]:
        """Where, in pixels, and what colour."""
        corner = [float(torch.randint(self.side, ())) - self.length // 2 for _ in range(2)]
        return [*corner, *torch.randint(256, (3,)).tolist()]

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, each with its hole."""
        images = images.clone()
        # Slices, not a mask: no more than the hole is touched, and their place is known on the CPU.
        colours = to_device(drawn[:, 2:].to(torch.uint8), images)
        for image, (top, left), colour in zip(images, drawn[:, :2].long().tolist(), colours, strict=True):
            hole = image[:, max(top, 0) : max(top + self.length, 0), max(left, 0) : max(left + self.length, 0)]
            hole.copy_(colour[:, None, None].expand_as(hole))
        return images


class RandAugment(Step):
    """Two random operations of medium strength, one after the other (Cubuk et al., 2020): see :mod:`.rand_augment`."""

    numbers = 2 * rand_augment.ROUNDS

    def draw(self, height: int, width: int) -> Sequence[float]:
        """The number of the operation and its sign, twice."""
        return [number for _ in range(rand_augment.ROUNDS) for number in rand_augment.draw()]

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The pictures after both operations."""
        return rand_augment.apply(images, drawn)


@dataclass(frozen=True)
class Augmentation:
    """From a picture of any size to a square of ``image_size``.

    Attributes:
        side: of the square that a picture first becomes; this is what a cache holds.
        mode: interpolation of the resizing.
        steps: after it.
        crops_original: the first step takes the picture as it was read instead. (From a cache, whose square is large
            enough that a crop loses nothing, it takes the same part of that.)
    """

    side: int
    mode: InterpolationMode
    steps: tuple[Step, ...] = ()
    crops_original: bool = False

    def __call__(self, picture: Tensor) -> Tensor:
        """(3, H, W) uint8 to (3, image_size, image_size) uint8, with numbers drawn on the spot."""
        height, width = picture.shape[-2:]
        drawn = self.draw(height, width)
        return self.apply(self.square(picture)[None], drawn[None])[0]

    def square(self, picture: Tensor) -> Tensor:
        """What the steps begin with: the picture resized to (3, side, side), unless they begin with the original."""
        return picture if self.crops_original else self.resized(picture)

    def resized(self, picture: Tensor) -> Tensor:
        """(3, H, W) to (3, side, side), the aspect ratio given up."""
        resized: Tensor = F.resize(picture, [self.side, self.side], self.mode, antialias=True)
        return resized

    def draw(self, height: int, width: int) -> Tensor:
        """What all steps want to know about one picture of this size: (P,) float64."""
        return torch.tensor([n for step in self.steps for n in step.draw(height, width)], dtype=torch.float64)

    def apply(self, images: Tensor, drawn: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Steps ``first`` to ``last`` (excluded) on a batch.

        Args:
            images: (B, 3, H, W) uint8 on any device.
            drawn: (B, P) on the CPU, for all steps.
            first: number of the first step.
            last: number of the first step that is left out.
        """
        of_step = torch.split(drawn, [step.numbers for step in self.steps], dim=1)
        for step, numbers in list(zip(self.steps, of_step, strict=True))[first:last]:
            images = step.apply(images, numbers)
        return images


def evaluation(size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> Augmentation:
    """Resize to size x size, the aspect ratio given up: the field's test protocol."""
    return Augmentation(size, interpolation)


def training(name: str, size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> Augmentation:
    """A training augmentation.

    Args:
        name: a key of :data:`AUGMENTATIONS`.
        size: side of the result in pixels.
        interpolation: of the resizing.

    Raises:
        MlclError: for an unknown name.
    """
    if name not in AUGMENTATIONS:
        raise MlclError(f"data.augment is {name!r}; known: {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name](size, interpolation)


def _resized(size: int, mode: InterpolationMode, *steps: Step) -> Augmentation:
    return Augmentation(size, mode, steps)


def _cropped(size: int, mode: InterpolationMode, smallest: float, *steps: Step) -> Augmentation:
    """The smallest crop of the square that is cached still has as many pixels as the result."""
    side = math.ceil(size / math.sqrt(smallest))
    return Augmentation(side, mode, (RandomResizedCrop(size, mode, smallest), *steps), crops_original=True)


def _sadcl(size: int, mode: InterpolationMode) -> Augmentation:
    side = size * 8 // 7  # 512 for 448
    return Augmentation(side, mode, (MultiScaleCrop(size, mode, side), Flip()))


# name -> (image_size, interpolation) -> what is done
AUGMENTATIONS: dict[str, Callable[[int, Any], Augmentation]] = {
    "none": lambda s, m: _resized(s, m),
    "flip": lambda s, m: _resized(s, m, Flip()),
    "csra": lambda s, m: _cropped(s, m, 0.7, Flip()),
    "mulcon_stage1": lambda s, m: _cropped(s, m, 0.875, Flip(), RandAugment()),
    "mulcon": lambda s, m: _resized(s, m, Flip(), RandAugment()),
    "sadcl_stage1": lambda s, m: _resized(s, m, Cutout(s // 2, s), RandAugment()),
    "sadcl": _sadcl,
}
