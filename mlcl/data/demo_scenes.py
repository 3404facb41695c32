"""Synthetic scenes with twelve object classes, written as a COCO-2014 tree.

They stand in for a real data set where none may be downloaded, and keep what makes multi-label recognition hard: small
and half-hidden objects, classes told apart by one part or by their texture, classes that come together, rare classes.
To add a class, write one painter and put it in ``_PAINTERS``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter

_FORMAT = 1  # raise it whenever the same request would give other pictures
_MIN_VISIBLE = 0.25  # share of an object that must be in view for a label
_ID_OFFSETS = {"train": 0, "val": 1_000_000}  # files are numbered from 1 in both splits, ids must not meet

Colour = tuple[int, int, int, int]
Points = Sequence[tuple[float, float]]
_CLEAR, _WHITE, _BLACK, _LAMP = (0, 0, 0, 0), (250, 250, 250, 255), (10, 10, 10, 255), (245, 235, 170, 255)
_TEXTURES: dict[str, Callable[[Any, Any], Any]] = {  # of coordinates in periods
    "stripes": lambda u, v: u % 1 < 0.5,
    "dots": lambda u, v: (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.1,
    "checks": lambda u, v: (u % 1 < 0.5) ^ (v % 1 < 0.5),
}


def _colour(rng: Generator, saturation: tuple[int, int], value: tuple[int, int]) -> Colour:
    r, g, b = ImageColor.getrgb(f"hsv({rng.integers(360)},{rng.integers(*saturation)}%,{rng.integers(*value)}%)")[:3]
    return r, g, b, 255


def _polar(radius: float, degrees: float) -> tuple[float, float]:
    return radius * math.sin(math.radians(degrees)), -radius * math.cos(math.radians(degrees))


class _Tile:
    """A transparent square to paint one thing on, inside the unit circle: x to the right, y down, both in -1..1."""

    def __init__(self, pixels: int, rng: Generator) -> None:
        self.rng, self.between = rng, rng.uniform
        self.image = Image.new("RGBA", (pixels, pixels))
        self._draw = ImageDraw.Draw(self.image)
        light, dark = _colour(rng, (10, 75), (80, 100)), _colour(rng, (40, 95), (20, 55))
        self.body, self.accent = (light, dark) if rng.random() < 0.5 else (dark, light)
        self._edge, self._edge_width = (*(c // 2 for c in dark[:3]), 255), round(pixels * rng.uniform(0, 0.03))

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        return [((x + 1) * self.image.width / 2, (y + 1) * self.image.width / 2) for x, y in points]

    def disc(self, x: float, y: float, radius: float, fill: Colour | None = None, flat: float = 1) -> Self:
        corners = self._pixels([(x - radius, y - radius * flat), (x + radius, y + radius * flat)])
        self._draw.ellipse(corners, fill or self.body, self._edge, 0 if fill == _CLEAR else self._edge_width)
        return self

    def polygon(self, points: Points, fill: Colour | None = None) -> Self:
        self._draw.polygon(self._pixels(points), fill or self.body, self._edge, self._edge_width)
        return self

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour | None = None) -> Self:
        return self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def line(self, points: Points, width: float, fill: Colour | None = None) -> Self:
        self._draw.line(self._pixels(points), fill or self.body, max(2, round(width * self.image.width / 2)), "curve")
        return self

    def texture(self, *kinds: str) -> Self:
        """Mark what is painted so far in the accent colour, with one of ``kinds`` or, without any, often not at all."""
        kind = self.rng.choice(kinds or ["plain"] * 10 + ["stripes", "dots"])
        step, (c, s) = self.between(0.4, 0.55), _polar(1, self.between(0, 180))
        if kind in _TEXTURES:
            across = np.linspace(-1 / step, 1 / step, self.image.width, dtype=np.float32)
            x, y = across + self.between(), across[:, None] + self.between()
            mask = Image.fromarray(_TEXTURES[kind](x * c + y * s, y * c - x * s) * np.uint8(255))
            self.image.paste(self.accent, mask=ImageChops.multiply(mask, self.image.getchannel("A")))
        return self


def _fish(t: _Tile) -> None:
    t.polygon([(0.2, 0), (0.82, -0.48), (0.7, 0), (0.82, 0.48)]).polygon([(-0.3, -0.3), (0.25, -0.68), (0.3, -0.2)])
    t.disc(-0.25, 0, 0.72, flat=t.between(0.5, 0.7)).texture()
    t.disc(-0.62, -0.08, 0.12, _WHITE).disc(-0.63, -0.08, 0.05, _BLACK)


def _house(t: _Tile) -> None:
    t.polygon([(-0.82, -0.2), (0, -0.98), (0.82, -0.2)]).texture().box(-0.62, -0.2, 0.62, 0.75, t.accent)
    t.box(-0.45, 0.15, -0.15, 0.75).box(0.12, 0.08, 0.46, 0.4, _LAMP)


def _tree(t: _Tile) -> None:
    t.box(-0.12, 0.4, 0.12, 0.98, t.accent)
    for foot, reach in ((0.5, 0.72), (0.0, 0.58), (-0.45, 0.42)):
        t.polygon([(-reach, foot), (0, foot - t.between(0.6, 0.7)), (reach, foot)])


def _ladder(t: _Tile) -> None:
    for y in np.linspace(-0.68, 0.68, t.rng.integers(4, 7)):
        t.line([(-0.4, y), (0.4, y)], 0.17, t.accent)
    t.line([(-0.4, -0.88), (-0.4, 0.88)], 0.17).line([(0.4, -0.88), (0.4, 0.88)], 0.17)


def _kite(t: _Tile) -> None:
    t.line([(0, 0.3), (0.2, 0.5), (-0.2, 0.7), (0.05, 0.95)], 0.07, t.accent).disc(0.2, 0.5, 0.12).disc(-0.2, 0.7, 0.12)
    t.polygon([(0, -0.98), (0.58, -0.4), (0, 0.4), (-0.58, -0.4)]).texture()
    t.line([(0, -0.95), (0, 0.38)], 0.05, t.accent).line([(-0.55, -0.4), (0.55, -0.4)], 0.05, t.accent)


_STAR = [_polar(0.44 if k % 2 else 0.98, 36 * k) for k in range(10)]
_BANDS = [_polar(r, 90 * k + turn) for k in range(4) for r, turn in ((0, 0), (0.95, -14), (0.95, 14))]  # of a lifebuoy
_PAINTERS: dict[str, Callable[[_Tile], Any]] = {
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
_LOOKALIKES: tuple[Callable[[_Tile], Any], ...] = (  # each lacks a part or the texture that would make it a class
    lambda t: t.disc(0, 0, 0.95).texture("plain", "checks"),
    lambda t: t.polygon([(0, -0.9), (0.6, 0), (0, 0.9), (-0.6, 0)]).texture(),
    lambda t: t.polygon([_polar(0.95, 120 * k) for k in range(3)]).texture(),
    lambda t: t.polygon([_polar(t.between(0.5, 0.95), 40 * k) for k in range(9)]).texture("plain", "checks"),
    lambda t: t.box(-0.65, -0.5, 0.65, 0.5).texture(),
    lambda t: t.line([_polar(0.8, 20 * k) for k in range(10)], t.between(0.06, 0.3)),
)
CLASSES: tuple[str, ...] = tuple(_PAINTERS)
_CATEGORY_IDS = {name: k + k // 4 + 1 for k, name in enumerate(CLASSES)}  # with holes, as COCO's
_THEMES: dict[str, dict[str, float]] = {  # a class that is not named has the weight 0.2
    "village": {"house": 6, "tree": 7, "ladder": 1, "ball": 3, "fish": 1, "arrow": 2, "star": 1},
    "night": {"moon": 6, "star": 6, "house": 3, "tree": 3, "cross": 1, "kite": 0.5},
    "shore": {"fish": 5, "ring": 5, "ball": 5, "kite": 2.4, "tree": 2, "star": 2},
    "kitchen": {"cookie": 8, "ring": 4, "star": 3, "cross": 3, "ball": 2, "fish": 3},
    "road": {"arrow": 5, "cross": 5, "ball": 2, "tree": 4, "house": 3, "moon": 1, "cookie": 1},
}
_COUNTS = (0.035, 0.105, 0.17, 0.21, 0.21, 0.15, 0.12)  # probability of 0, 1, .. 6 objects


def _background(width: int, height: int, rng: Generator) -> Image.Image:
    """Mix two muted colours along a gradient or a horizon, broken up by soft noise, at times with planks over it."""
    noises = []
    for cells, strength in ((4, 3), (12, 2), (48, 15)):
        grain = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8)).resize((width, height))
        noises.append((np.asarray(grain, np.float32) - 128) * (rng.uniform(0, strength) / 128))
    x, y = (np.linspace(-1, 1, side, dtype=np.float32) for side in (width, height))
    c, s = _polar(1, rng.uniform(0, 360))
    slope = float(rng.choice([1, 1, 4, 20])) * (c * x + s * y[:, None])
    mix = 1 / (1 + np.exp(slope + noises[0] + noises[1]))
    planks = rng.uniform(0, 12) * (rng.random() < 0.4) * np.sin(rng.uniform(10, 30) * (s * x - c * y[:, None]))
    one, other = (np.array(_colour(rng, (5, 50), (35, 95))[:3], np.float32) for _ in range(2))
    canvas = other + (one - other) * mix[..., None] + (noises[2] + 10 * noises[1] + planks)[..., None]
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def _warp(tile: _Tile, diameter: float) -> Image.Image:
    """Turn, squash and tilt a tile and bring its unit circle to about ``diameter`` pixels."""
    half, side = tile.image.width / 2, math.ceil(1.2 * diameter) + 2
    (s, c), axis = _polar(1, tile.rng.normal(0, 12)), np.array(_polar(1, tile.between(0, 180)))
    back = np.eye(3)  # from the picture to the tile, both in unit coordinates
    back[:2, :2] = [[-c, s], [-s, -c]] @ (np.eye(2) + tile.between(0, 0.3) * np.outer(axis, axis))
    back[0] *= tile.rng.choice([-1, 1])
    back[2, :2] = tile.between(-0.1, 0.1, 2)
    to_unit = np.array([[2, 0, -side], [0, 2, -side], [0, 0, diameter]]) / diameter
    whole = np.array([[half, 0, half], [0, half, half], [0, 0, 1]]) @ back @ to_unit
    terms = (whole / whole[2, 2]).ravel()[:8].tolist()
    return tile.image.transform((side, side), Image.Transform.PERSPECTIVE, terms, Image.Resampling.BILINEAR)


class _Scene:
    """A picture being composed that knows for each pixel what is on top there."""

    def __init__(self, width: int, height: int, rng: Generator) -> None:
        self.rng, self.canvas = rng, _background(width, height, rng)
        self._owner = Image.new("L", (width, height))
        self._things = [("", 0)]  # class or "" and the pixels it covers wherever they lie; first the background
        self._light, self._shadow, shade = rng.uniform((0, 0.1, 0.1), (360, 0.6, 0.4))
        self._ramp = Image.blend(Image.new("L", (256, 256)), Image.linear_gradient("L").rotate(self._light), shade)

    def add(self, name: str, x: float, y: float, diameter: float) -> None:
        """Paint a thing of class ``name``, or clutter, over what is there; all in pixels."""
        tile = _Tile(max(8, round(2 * diameter)), self.rng)
        (_PAINTERS[name] if name else _LOOKALIKES[self.rng.integers(len(_LOOKALIKES))])(tile)
        patch = _warp(tile, diameter)
        alpha, size = patch.getchannel("A"), patch.size
        left, top = round(x - size[0] / 2), round(y - size[0] / 2)
        down, right = _polar(0.08 * diameter + 1, self._light)
        place = (left - round(right), top + round(down))
        self.canvas.paste(_BLACK, place, Image.blend(Image.new("L", size), alpha, self._shadow))
        self.canvas.paste(patch, (left, top), alpha)
        shade = ImageChops.multiply(alpha, self._ramp.resize(size, Image.Resampling.NEAREST))
        self.canvas.paste(_BLACK, (left, top), shade)
        self._owner.paste(len(self._things), (left, top), alpha.convert("1", dither=Image.Dither.NONE))
        self._things.append((name, int(np.count_nonzero(np.asarray(alpha) > 127))))

    def boxes(self) -> list[tuple[str, list[int], int]]:
        """Return class, [x, y, width, height] and visible pixels of the objects that are not hidden or cut off."""
        found, owner = [], np.asarray(self._owner)
        for number, (name, area) in enumerate(self._things):
            rows, columns = np.nonzero(owner == number)
            if name and len(rows) >= max(1, _MIN_VISIBLE * area):
                x, y = int(columns.min()), int(rows.min())
                found.append((name, [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1], len(rows)))
        return found

    def photograph(self) -> Image.Image:
        """Return the picture as a mediocre camera gives it: exposure, tint, grain and a little blur."""
        blurred = np.asarray(self.canvas.filter(ImageFilter.BoxBlur(self.rng.uniform(0, 0.6))))
        grain = self.rng.uniform(1, 5) * self.rng.standard_normal((*blurred.shape[:2], 1), np.float32)
        tint = self.rng.uniform(0.75, 1.1) * self.rng.uniform(0.92, 1.08, 3).astype(np.float32)
        return Image.fromarray((blurred * tint + grain).clip(0, 255).astype(np.uint8))


def _compose(rng: Generator, size: int) -> _Scene:
    """Compose one scene: things of one theme, spread out, with diameters of 8% to 45% of the shorter side."""
    shape = ((1, 1), (1.15, 0.87), (0.87, 1.15))[rng.integers(3)]
    width, height = (round(side * size * rng.uniform(0.92, 1.08)) for side in shape)
    theme = list(_THEMES.values())[rng.integers(len(_THEMES))]
    weights = np.array([theme.get(name, 0.2) for name in CLASSES])
    things = rng.choice(CLASSES, rng.choice(7, p=_COUNTS), p=weights / weights.sum()).tolist()
    for _ in range(rng.integers(0, 3)):  # clutter, but never in front of the last object: that one stays in view
        things.insert(rng.integers(max(1, len(things))), "")
    scene, taken = _Scene(width, height, rng), [(9.0, 9.0)]
    for name in things:
        spots = rng.uniform(0.12, 0.88, (3, 2)).tolist()
        x, y = max(spots, key=lambda spot: min(math.dist(spot, other) for other in taken))
        taken.append((x, y))
        scene.add(name, x * width, y * height, (0.08 + 0.37 * rng.beta(1.6, 0.5)) * min(width, height))
    return scene


def _write_split(root: Path, split: str, count: int, size: int, seed: int) -> None:
    folder = root / f"{split}2014"
    folder.mkdir(parents=True)
    categories = [{"id": _CATEGORY_IDS[name], "name": name, "supercategory": "shape"} for name in CLASSES]
    info = {"description": "mlcl synthetic scenes", "version": str(_FORMAT), "year": 2014}
    content: dict[str, Any] = {"info": info, "licenses": [], "images": [], "annotations": [], "categories": categories}
    for number in range(1, count + 1):
        image_id, file_name = _ID_OFFSETS[split] + number, f"COCO_{split}2014_{number:012d}.jpg"
        scene = _compose(np.random.default_rng([seed, image_id]), size)  # its own generator: no picture moves another
        scene.photograph().save(folder / file_name, quality=85)
        width, height = scene.canvas.size
        content["images"].append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for k, (name, (x, y, w, h), area) in enumerate(scene.boxes()):
            entry = {"id": 10 * image_id + k, "image_id": image_id, "category_id": _CATEGORY_IDS[name], "iscrowd": 0}
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            content["annotations"].append(entry | {"bbox": [x, y, w, h], "area": area, "segmentation": [outline]})
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))


def write_scenes(root: Path, train: int = 2000, val: int = 600, size: int = 128, seed: int = 0) -> None:
    """Write a COCO-2014 tree of synthetic scenes, whole or not at all, unless the same tree is there already.

    A picture depends on ``size``, ``seed``, its split and its number only: a longer split begins with the shorter one.

    Args:
        root: Folder to make; ``root/demo.json`` says what it was made for.
        train: Number of training pictures, 1 to 1,000,000.
        val: Number of validation pictures, 1 or more.
        size: About the side of a picture in pixels, 32 or more; width and height are 0.8 to 1.25 of it.
        seed: Zero or more; another seed gives other pictures.

    Raises:
        FileExistsError: If ``root`` holds anything else than the tree asked for.
        ValueError: If a number is out of range.
    """
    if not (1 <= train <= _ID_OFFSETS["val"] and val >= 1 and size >= 32 and seed >= 0):
        raise ValueError(f"out of range: train={train}, val={val}, size={size} (32 or more), seed={seed}")
    wanted = json.dumps({"format": _FORMAT, "train": train, "val": val, "size": size, "seed": seed})
    if not root.exists():
        partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had our number
        try:
            _write_split(partial, "train", train, size, seed)
            _write_split(partial, "val", val, size, seed)
            (partial / "demo.json").write_text(wanted)
            partial.rename(root)
        except OSError:
            if not root.exists():  # else another process was faster: what it wrote is looked at below
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    note = root / "demo.json"
    there = note.read_text() if note.is_file() else "something else (no demo.json)"
    if there != wanted:
        raise FileExistsError(f"{root} holds {there}, asked for {wanted}: choose another folder or delete it")
