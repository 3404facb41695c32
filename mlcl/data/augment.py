"""Augmentation sets by name, as in the papers' recipes; all on uint8, all sizes from ``image_size``.

Random numbers are drawn on the CPU and applied to a picture there or to a batch on the GPU (``data.augment_on``): the
results differ by rounding only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from mlcl.data.augment_steps import Cutout, Flip, MultiScaleCrop, RandomResizedCrop, Step
from mlcl.data.images import resize
from mlcl.data.rand_augment import RandAugment

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """From a picture of any size to a square of ``image_size``."""

    side: int  # of the square that a picture is resized to first, and that a cache holds
    mode: InterpolationMode = InterpolationMode.BILINEAR  # of the resizing
    steps: tuple[Step, ...] = ()
    # The first step crops the picture as it was read (or, from a cache, the same part of the square, which is large
    # enough that the crop is never enlarged).
    crops_original: bool = False

    def __call__(self, picture: Tensor) -> Tensor:
        """(3, H, W) uint8 to (3, image_size, image_size) uint8."""
        drawn = self.draw(*picture.shape[-2:])
        return self.apply(self.square(picture)[None], drawn[None])[0]

    def square(self, picture: Tensor) -> Tensor:
        """The input of the first step: (3, side, side), or the picture itself if the first step crops that."""
        return picture if self.crops_original else self.resized(picture)

    def resized(self, picture: Tensor) -> Tensor:
        """(3, H, W) to (3, side, side); the aspect ratio is not kept."""
        return resize(picture, self.side, self.mode.value)

    def draw(self, height: int, width: int) -> Tensor:
        """The random numbers of all steps for one picture of this size: (P,) float64."""
        return torch.tensor([n for step in self.steps for n in step.draw(height, width)], dtype=torch.float64)

    def apply(self, images: Tensor, drawn: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Steps ``first`` to ``last`` (excluded) on (B, 3, H, W); ``drawn`` (B, P), on the CPU, is of all steps."""
        of_step = torch.split(drawn, [step.numbers for step in self.steps], dim=1)
        for step, numbers in list(zip(self.steps, of_step, strict=True))[first:last]:
            images = step.apply(images, numbers)
        return images


def _cropped(size: int, mode: InterpolationMode, smallest: float, *steps: Step) -> Augmentation:
    """A square of which the smallest crop still has as many pixels as the result."""
    side = math.ceil(size / math.sqrt(smallest))
    return Augmentation(side, mode, (RandomResizedCrop(size, mode, smallest), *steps), crops_original=True)


def _sadcl(size: int, mode: InterpolationMode) -> Augmentation:
    side = size * 8 // 7  # 512 for 448
    return Augmentation(side, mode, (MultiScaleCrop(size, mode, side), Flip()))


# name -> (image_size, interpolation) -> augmentation. "none", resizing alone, is also the field's test protocol.
AUGMENTATIONS: dict[str, Callable[[int, Any], Augmentation]] = {
    "none": Augmentation,
    "flip": lambda s, m: Augmentation(s, m, (Flip(),)),
    "csra": lambda s, m: _cropped(s, m, 0.7, Flip()),
    "mulcon_stage1": lambda s, m: _cropped(s, m, 0.875, Flip(), RandAugment()),
    "mulcon": lambda s, m: Augmentation(s, m, (Flip(), RandAugment())),
    "sadcl_stage1": lambda s, m: Augmentation(s, m, (Cutout(s // 2, s), RandAugment())),
    "sadcl": _sadcl,
}
