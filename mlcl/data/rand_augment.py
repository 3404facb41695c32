"""RandAugment (Cubuk et al., arXiv 1909.13719) on batches: one kernel per kind of operation instead of per picture.

The operations, their strength (9 of 30), random numbers and kernels are those of torchvision's ``v2.RandAugment()``.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mlcl.data.augment_steps import Step, to_device

ROUNDS = 2
STRENGTH = 9 / 30


def _affine(image: Any, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0, 0), **centre: Any) -> Any:
    return F.affine(image, 0.0, list(translate), 1.0, list(shear), InterpolationMode.NEAREST, **centre)


def _degrees(slope: float) -> float:
    return math.degrees(math.atan(slope))


# name -> (whether it has a sign, (image, signed strength) -> image); images are Pillow's, or (..., 3, H, W) uint8.
OPERATIONS: dict[str, tuple[bool, Callable[[Any, float], Any]]] = {
    "Identity": (False, lambda image, m: image),
    "ShearX": (True, lambda image, m: _affine(image, shear=(_degrees(0.3 * m), 0), center=[0, 0])),
    "ShearY": (True, lambda image, m: _affine(image, shear=(0, _degrees(0.3 * m)), center=[0, 0])),
    "TranslateX": (True, lambda image, m: _affine(image, (int(150 / 331 * F.get_size(image)[1] * m), 0))),
    "TranslateY": (True, lambda image, m: _affine(image, (0, int(150 / 331 * F.get_size(image)[0] * m)))),
    "Rotate": (True, lambda image, m: F.rotate(image, 30 * m, InterpolationMode.NEAREST)),
    "Brightness": (True, lambda image, m: F.adjust_brightness(image, 1 + 0.9 * m)),
    "Color": (True, lambda image, m: F.adjust_saturation(image, 1 + 0.9 * m)),
    "Contrast": (True, lambda image, m: F.adjust_contrast(image, 1 + 0.9 * m)),
    "Sharpness": (True, lambda image, m: F.adjust_sharpness(image, 1 + 0.9 * m)),
    "Posterize": (False, lambda image, m: F.posterize(image, round(8 - 4 * m))),
    "Solarize": (False, lambda image, m: F.solarize(image, 255 * (1 - m))),
    "AutoContrast": (False, lambda image, m: F.autocontrast(image)),
    "Equalize": (False, lambda image, m: F.equalize(image)),
}
_FUNCTIONS = list(OPERATIONS.values())
Drawn = list[tuple[int, float]]  # for each picture the number of an operation and its sign, -1 or 1


class RandAugment(Step):
    """Two random operations of medium strength, one after the other."""

    numbers = 2 * ROUNDS

    def draw(self, height: int, width: int) -> Sequence[float]:
        """The number of an operation and its sign, -1 or 1; twice."""
        drawn: list[float] = []
        for _ in range(ROUNDS):
            number = int(torch.randint(len(_FUNCTIONS), ()))
            drawn += [number, -1.0 if _FUNCTIONS[number][0] and torch.rand(()) <= 0.5 else 1.0]
        return drawn

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """(B, 3, H, W) to the same."""
        rounds = [[(int(number), sign) for number, sign in chosen.tolist()] for chosen in torch.split(drawn, 2, dim=1)]
        if images.device.type == "cpu":
            return by_pillow(images, rounds)
        for chosen in rounds:
            images = by_kernel(images, chosen)
        return images


def by_pillow(images: Tensor, rounds: list[Drawn]) -> Tensor:
    """Picture by picture with Pillow: on a CPU three times faster than torchvision's tensor kernels."""
    done = []
    for image, *drawn in zip(images, *rounds, strict=True):
        picture = F.to_pil_image(image)
        for number, sign in drawn:
            picture = _FUNCTIONS[number][1](picture, STRENGTH * sign)
        done.append(F.pil_to_tensor(picture))
    return done[0][None] if len(done) == 1 else torch.stack(done)


def by_kernel(images: Tensor, drawn: Drawn) -> Tensor:
    """One operation per picture, called once for all pictures that drew the same operation and sign."""
    groups: dict[tuple[int, float], list[int]] = defaultdict(list)
    for place, kind in enumerate(drawn):
        groups[kind].append(place)
    order = torch.tensor([place for places in groups.values() for place in places])
    forth, back = to_device(order, images), to_device(order.argsort(), images)
    parts = torch.split(images[forth], [len(places) for places in groups.values()])
    changed = [_FUNCTIONS[number][1](part, STRENGTH * sign) for part, (number, sign) in zip(parts, groups, strict=True)]
    return torch.cat(changed)[back]
