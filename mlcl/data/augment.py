"""Augmentation sets by name, as in the papers' recipes; all on uint8, all sizes from ``image_size``.

Random numbers come from torch's generator alone, which the dataset seeds for every (epoch, index, view).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from mlcl.errors import MlclError

Transform = Callable[[Tensor], Tensor]


def evaluation(size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> Transform:
    """Resize to size x size, the aspect ratio given up: the field's test protocol."""
    return _resize(size, interpolation)


def training(name: str, size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> Transform:
    """A training augmentation: (3, H, W) uint8 in, (3, size, size) uint8 out.

    Args:
        name: a key of :data:`AUGMENTATIONS`.
        size: side of the result in pixels.
        interpolation: of the resizing.

    Raises:
        MlclError: for an unknown name.
    """
    if name not in AUGMENTATIONS:
        raise MlclError(f"data.augment is {name!r}; known: {', '.join(AUGMENTATIONS)}")
    steps: Transform = v2.Compose(AUGMENTATIONS[name](size, interpolation))
    return steps


class Cutout(nn.Module):
    """One square hole of random colour at a random centre, cut off at the border (DeVries and Taylor, 2017).

    Args:
        length: side of the hole in pixels.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 in, a copy with the hole out."""
        height, width = image.shape[-2:]
        top, left = (int(torch.randint(side, ())) - self.length // 2 for side in (height, width))
        colour = torch.randint(256, (3, 1, 1), dtype=torch.uint8)
        image = image.clone()
        image[:, max(top, 0) : top + self.length, max(left, 0) : left + self.length] = colour
        return image


class MultiScaleCrop(nn.Module):
    """Crop at a random pair of scales and one of 13 fixed offsets, resized to ``size`` (SADCL's second stage).

    Args:
        size: side of the result in pixels.
        interpolation: of the resizing.
        scales: crop sides as shares of the shorter side of the image.
        max_distort: how many places in ``scales`` width and height may lie apart.
    """

    def __init__(
        self,
        size: int,
        interpolation: InterpolationMode,
        scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66, 0.5),
        max_distort: int = 2,
    ) -> None:
        super().__init__()
        self.resize = evaluation(size, interpolation)
        places = range(len(scales))
        self.pairs = [(scales[i], scales[j]) for i in places for j in places if abs(i - j) <= max_distort]
        quarters = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4)] + [(1, 1), (1, 3), (3, 1), (3, 3)]
        self.offsets = [(i / 4, j / 4) for i, j in quarters]

    def forward(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 in, (3, size, size) uint8 out."""
        height, width = image.shape[-2:]
        tall, wide = self.pairs[int(torch.randint(len(self.pairs), ()))]
        down, right = self.offsets[int(torch.randint(len(self.offsets), ()))]
        crop_height, crop_width = (max(1, round(min(height, width) * scale)) for scale in (tall, wide))
        top, left = round((height - crop_height) * down), round((width - crop_width) * right)
        return self.resize(image[:, top : top + crop_height, left : left + crop_width])


def _random_resized_crop(smallest: float) -> Callable[[int, InterpolationMode], nn.Module]:
    return lambda size, mode: v2.RandomResizedCrop(size, scale=(smallest, 1), interpolation=mode, antialias=True)


def _resize(size: int, mode: InterpolationMode) -> nn.Module:
    resize: nn.Module = v2.Resize((size, size), mode, antialias=True)
    return resize


# name -> (image_size, interpolation) -> steps
AUGMENTATIONS: dict[str, Callable[[int, InterpolationMode], list[Transform]]] = {
    "none": lambda s, m: [_resize(s, m)],
    "flip": lambda s, m: [_resize(s, m), v2.RandomHorizontalFlip()],
    "csra": lambda s, m: [_random_resized_crop(0.7)(s, m), v2.RandomHorizontalFlip()],
    "mulcon_stage1": lambda s, m: [_random_resized_crop(0.875)(s, m), v2.RandomHorizontalFlip(), v2.RandAugment()],
    "mulcon": lambda s, m: [_resize(s, m), v2.RandomHorizontalFlip(), v2.RandAugment()],
    "sadcl_stage1": lambda s, m: [_resize(s, m), Cutout(s // 2), v2.RandAugment()],
    "sadcl": lambda s, m: [_resize(s * 8 // 7, m), MultiScaleCrop(s, m), v2.RandomHorizontalFlip()],
}
