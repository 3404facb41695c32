"""The twelve object classes of the demo scenes, and things that only look like them, painted with Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageColor, ImageDraw

Colour = tuple[int, int, int, int]
Points = Sequence[tuple[float, float]]
_CLEAR, _WHITE, BLACK, _LAMP = (0, 0, 0, 0), (250, 250, 250, 255), (10, 10, 10, 255), (245, 235, 170, 255)
_TEXTURES: dict[str, Callable[[Any, Any], Any]] = {  # of coordinates in periods
    "stripes": lambda u, v: u % 1 < 0.5,
    "dots": lambda u, v: (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1,
    "checks": lambda u, v: (u % 1 < 0.5) ^ (v % 1 < 0.5),
}


def colour(rng: Generator, saturation: tuple[int, int], value: tuple[int, int]) -> Colour:
    """A random opaque colour, saturation and value within the given ranges, in percent."""
    r, g, b = ImageColor.getrgb(f"hsv({rng.integers(360)},{rng.integers(*saturation)}%,{rng.integers(*value)}%)")[:3]
    return r, g, b, 255


def polar(radius: float, degrees: float) -> tuple[float, float]:
    """A point as (x, y) with y down; the angle is measured clockwise from the top."""
    return radius * math.sin(math.radians(degrees)), -radius * math.cos(math.radians(degrees))


class Tile:
    """A transparent square to paint one thing on, inside the unit circle: x to the right, y down, both in -1..1."""

    def __init__(self, pixels: int, rng: Generator) -> None:
        self.rng, self.between = rng, rng.uniform
        self.image = Image.new("RGBA", (pixels, pixels))
        self._draw = ImageDraw.Draw(self.image)
        light, dark = colour(rng, (10, 75), (80, 100)), colour(rng, (40, 95), (20, 55))
        self.body, self.accent = (light, dark) if rng.random() < 0.5 else (dark, light)
        self._edge, self._edge_width = (*(c // 2 for c in dark[:3]), 255), round(pixels * rng.uniform(0, 0.03))

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        return [((x + 1) * self.image.width / 2, (y + 1) * self.image.width / 2) for x, y in points]

    def disc(self, x: float, y: float, radius: float, fill: Colour | None = None, flat: float = 1) -> Self:
        """Paint an ellipse with the height ``flat`` times its width; the default colour is that of the body."""
        corners = self._pixels([(x - radius, y - radius * flat), (x + radius, y + radius * flat)])
        self._draw.ellipse(corners, fill or self.body, self._edge, 0 if fill == _CLEAR else self._edge_width)
        return self

    def polygon(self, points: Points, fill: Colour | None = None) -> Self:
        """Paint a polygon."""
        self._draw.polygon(self._pixels(points), fill or self.body, self._edge, self._edge_width)
        return self

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour | None = None) -> Self:
        """Paint a rectangle."""
        return self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def line(self, points: Points, width: float, fill: Colour | None = None) -> Self:
        """Paint a line through the points."""
        self._draw.line(self._pixels(points), fill or self.body, max(2, round(width * self.image.width / 2)), "curve")
        return self

    def texture(self, *kinds: str) -> Self:
        """Mark what is painted so far in the accent colour, with one of ``kinds`` or, without any, often not at all."""
        kind = self.rng.choice(kinds or ["plain"] * 10 + ["stripes", "dots"])
        step, (c, s) = self.between(0.4, 0.55), polar(1, self.between(0, 180))
        if kind in _TEXTURES:
            across = np.linspace(-1 / step, 1 / step, self.image.width, dtype=np.float32)
            x, y = across + self.between(), across[:, None] + self.between()
            mask = Image.fromarray(_TEXTURES[kind](x * c + y * s, y * c - x * s) * np.uint8(255))
            self.image.paste(self.accent, mask=ImageChops.multiply(mask, self.image.getchannel("A")))
        return self


def _fish(t: Tile) -> None:
    t.polygon([(0.2, 0), (0.82, -0.48), (0.7, 0), (0.82, 0.48)]).polygon([(-0.3, -0.3), (0.25, -0.68), (0.3, -0.2)])
    t.disc(-0.25, 0, 0.72, flat=t.between(0.5, 0.7)).texture()
    t.disc(-0.62, -0.08, 0.12, _WHITE).disc(-0.63, -0.08, 0.05, BLACK)


def _house(t: Tile) -> None:
    t.polygon([(-0.82, -0.2), (0, -0.98), (0.82, -0.2)]).texture().box(-0.62, -0.2, 0.62, 0.75, t.accent)
    t.box(-0.45, 0.15, -0.15, 0.75).box(0.12, 0.08, 0.46, 0.4, _LAMP)


def _tree(t: Tile) -> None:
    t.box(-0.12, 0.4, 0.12, 0.98, t.accent)
    for foot, reach in ((0.5, 0.72), (0.0, 0.58), (-0.45, 0.42)):
        t.polygon([(-reach, foot), (0, foot - t.between(0.6, 0.7)), (reach, foot)])


def _ladder(t: Tile) -> None:
    for y in np.linspace(-0.68, 0.68, t.rng.integers(4, 7)):
        t.line([(-0.4, y), (0.4, y)], 0.17, t.accent)
    t.line([(-0.4, -0.88), (-0.4, 0.88)], 0.17).line([(0.4, -0.88), (0.4, 0.88)], 0.17)


def _kite(t: Tile) -> None:
    t.line([(0, 0.3), (0.2, 0.5), (-0.2, 0.7), (0.05, 0.95)], 0.07, t.accent).disc(0.2, 0.5, 0.12).disc(-0.2, 0.7, 0.12)
    t.polygon([(0, -0.98), (0.58, -0.4), (0, 0.4), (-0.58, -0.4)]).texture()
    t.line([(0, -0.95), (0, 0.38)], 0.05, t.accent).line([(-0.55, -0.4), (0.55, -0.4)], 0.05, t.accent)


_STAR = [polar(0.44 if k % 2 else 0.98, 36 * k) for k in range(10)]
_BANDS = [polar(r, 90 * k + turn) for k in range(4) for r, turn in ((0, 0), (0.95, -14), (0.95, 14))]  # of a lifebuoy
PAINTERS: dict[str, Callable[[Tile], Any]] = {
    "ball": lambda t: t.disc(0, 0, 0.96).texture("stripes"),
    "cookie": lambda t: t.disc(0, 0, 0.96).texture("dots"),
    "ring": lambda t: t.disc(0, 0, 0.96).polygon(_BANDS, t.accent).disc(0, 0, t.between(0.4, 0.6), _CLEAR),
    "moon": lambda t: t.disc(0, 0, 0.96).texture().disc(0.48, 0, 0.78, _CLEAR).disc(-0.6, -0.2, 0.13, t.accent),
    "star": lambda t: t.polygon(_STAR).texture().polygon([(x / 2, y / 2) for x, y in _STAR], t.accent),
    "cross": lambda t: t.box(-0.25, -0.9, 0.25, 0.9).texture().box(-0.9, -0.25, 0.9, 0.25, t.accent).disc(0, 0, 0.2),
    "arrow": lambda t: t.box(-0.2, -0.3, 0.2, 0.9).texture().polygon([(-0.7, -0.1), (0, -0.9), (0.7, -0.1)], t.accent),
    "fish": _fish,
    "house": _house,
    "tree": _tree,
    "ladder": _ladder,
    "kite": _kite,
}
LOOKALIKES: tuple[Callable[[Tile], Any], ...] = (  # each lacks a part or the texture that would make it a class
    lambda t: t.disc(0, 0, 0.95).texture("plain", "checks"),
    lambda t: t.polygon([(0, -0.9), (0.6, 0), (0, 0.9), (-0.6, 0)]).texture(),
    lambda t: t.polygon([polar(0.95, 120 * k) for k in range(3)]).texture(),
    lambda t: t.polygon([polar(t.between(0.5, 0.95), 40 * k) for k in range(9)]).texture("plain", "checks"),
    lambda t: t.box(-0.65, -0.5, 0.65, 0.5).texture(),
    lambda t: t.line([polar(0.8, 20 * k) for k in range(10)], t.between(0.06, 0.3)),
)
