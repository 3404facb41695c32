"""The demo dataset: generated scenes with twelve object classes, written as a COCO-2014 tree, read by the COCO reader.

They keep what makes multi-label recognition hard: small and half-hidden objects, classes told apart by one part or by
their texture, classes that come together, rare classes.
"""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from mlcl.data.coco import COCO2014
from mlcl.data.demo_painting import BLACK, LOOKALIKES, PAINTERS, Tile, colour, polar
from mlcl.errors import MlclError

_FORMAT = 2  # to be raised when the same request gives other pictures or annotations
_MIN_VISIBLE = 0.25  # share of an object that must be in view for a label
_ID_OFFSETS = {"train": 0, "val": 1_000_000}  # files are numbered from 1 in both splits, ids must differ

CLASSES: tuple[str, ...] = tuple(PAINTERS)
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
    c, s = polar(1, rng.uniform(0, 360))
    slope = float(rng.choice([1, 1, 4, 20])) * (c * x + s * y[:, None])
    mix = 1 / (1 + np.exp(slope + noises[0] + noises[1]))
    planks = rng.uniform(0, 12) * (rng.random() < 0.4) * np.sin(rng.uniform(10, 30) * (s * x - c * y[:, None]))
    one, other = (np.array(colour(rng, (5, 50), (35, 95))[:3], np.float32) for _ in range(2))
    canvas = other + (one - other) * mix[..., None] + (noises[2] + 10 * noises[1] + planks)[..., None]
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def _warp(tile: Tile, diameter: float) -> Image.Image:
    """Turn, squash and tilt a tile and bring its unit circle to about ``diameter`` pixels."""
    half, side = tile.image.width / 2, math.ceil(1.2 * diameter) + 2
    (s, c), axis = polar(1, tile.rng.normal(0, 12)), np.array(polar(1, tile.between(0, 180)))
    back = np.eye(3)  # from the picture to the tile, both in unit coordinates
    back[:2, :2] = [[-c, s], [-s, -c]] @ (np.eye(2) + tile.between(0, 0.3) * np.outer(axis, axis))
    back[0] *= tile.rng.choice([-1, 1])
    back[2, :2] = tile.between(-0.1, 0.1, 2)
    to_unit = np.array([[2, 0, -side], [0, 2, -side], [0, 0, diameter]]) / diameter
    whole = np.array([[half, 0, half], [0, half, half], [0, 0, 1]]) @ back @ to_unit
    terms = (whole / whole[2, 2]).ravel()[:8].tolist()
    return tile.image.transform((side, side), Image.Transform.PERSPECTIVE, terms, Image.Resampling.BILINEAR)


class _Scene:
    """A picture being composed, and for each pixel the number of the thing that is on top there."""

    def __init__(self, width: int, height: int, rng: Generator) -> None:
        self.rng, self.canvas = rng, _background(width, height, rng)
        self._owner = Image.new("L", (width, height))
        self._things = [("", 0)]  # class or "" and the pixels it covers wherever they lie; first the background
        self._light, self._shadow, shade = rng.uniform((0, 0.1, 0.1), (360, 0.6, 0.4))
        self._ramp = Image.blend(Image.new("L", (256, 256)), Image.linear_gradient("L").rotate(self._light), shade)

    def add(self, name: str, x: float, y: float, diameter: float) -> None:
        """Paint a thing of class ``name``, or clutter, over what is there; all in pixels."""
        tile = Tile(max(8, round(2 * diameter)), self.rng)
        (PAINTERS[name] if name else LOOKALIKES[self.rng.integers(len(LOOKALIKES))])(tile)
        patch = _warp(tile, diameter)
        alpha, size = patch.getchannel("A"), patch.size
        left, top = round(x - size[0] / 2), round(y - size[0] / 2)
        down, right = polar(0.08 * diameter + 1, self._light)
        place = (left - round(right), top + round(down))
        self.canvas.paste(BLACK, place, Image.blend(Image.new("L", size), alpha, self._shadow))
        self.canvas.paste(patch, (left, top), alpha)
        shade = ImageChops.multiply(alpha, self._ramp.resize(size, Image.Resampling.NEAREST))
        self.canvas.paste(BLACK, (left, top), shade)
        self._owner.paste(len(self._things), (left, top), alpha.convert("1", dither=Image.Dither.NONE))
        self._things.append((name, int(np.count_nonzero(np.asarray(alpha) > 127))))

    def objects(self) -> list[tuple[str, list[int], int, list[int]]]:
        """Those that are not hidden or cut off: class, [x, y, width, height], visible pixels, and their run lengths."""
        found, owner = [], np.asarray(self._owner)
        for number, (name, area) in enumerate(self._things):
            mask = owner == number
            rows, columns = np.nonzero(mask)
            if name and len(rows) >= max(1, _MIN_VISIBLE * area):
                x, y = int(columns.min()), int(rows.min())
                box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
                found.append((name, box, len(rows), _runs(mask)))
        return found

    def photograph(self) -> Image.Image:
        """The picture with random exposure, tint, grain and a little blur."""
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


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed form: pixels outside, inside, outside, ..., down one column after the other."""
    pixels = np.concatenate([[False], mask.ravel(order="F")])  # a mask that begins inside has 0 pixels outside first
    ends = np.flatnonzero(np.append(pixels[1:] != pixels[:-1], True))
    lengths: list[int] = np.diff(ends, prepend=0).tolist()
    return lengths


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
        for k, (name, box, area, runs) in enumerate(scene.objects()):
            entry = {"id": 10 * image_id + k, "image_id": image_id, "category_id": _CATEGORY_IDS[name], "iscrowd": 0}
            mask = {"size": [height, width], "counts": runs}
            content["annotations"].append(entry | {"bbox": box, "area": area, "segmentation": mask})
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content))


def write_scenes(root: Path, train: int = 2000, val: int = 600, size: int = 128, seed: int = 0) -> None:
    """Write a COCO-2014 tree of synthetic scenes, whole or not at all, unless the same tree is there already.

    ``root/demo.json`` holds the other arguments (see :class:`Demo`). A picture depends on ``size``, ``seed``, its split
    and its number only: a longer split begins with the shorter one.

    Raises:
        MlclError: if a number is out of range, ``root`` holds something else, or it cannot be written.
    """
    if not (1 <= train <= _ID_OFFSETS["val"] and val >= 1 and size >= 32 and seed >= 0):
        raise MlclError(
            f"data.train_images {train}, data.test_images {val}, data.scene_size {size} (32 or more) or "
            f"data.scene_seed {seed} is out of range"
        )
    wanted = json.dumps({"format": _FORMAT, "train": train, "val": val, "size": size, "seed": seed})
    if not root.exists():
        partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)  # of a killed process with the same id
        try:
            _write_split(partial, "train", train, size, seed)
            _write_split(partial, "val", val, size, seed)
            (partial / "demo.json").write_text(wanted)
            partial.rename(root)
        except OSError as error:
            if not root.exists():  # else another process was faster; its tree is checked below
                raise MlclError(f"{root} (--data.root): the scenes cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    note = root / "demo.json"
    found = note.read_text() if note.is_file() else "something else (no demo.json)"
    if found != wanted:
        raise MlclError(f"{root} (--data.root) holds {found}, asked for {wanted}: choose another folder or delete it")


class Demo(COCO2014):
    """Synthetic scenes with 12 classes, written on first use; the same settings give the same pictures.

    Args:
        root: folder to write to.
        train_images: number of training images.
        test_images: number of test images.
        scene_size: typical side of a generated picture in pixels.
        scene_seed: of the generator; not the training's seed.
        **settings: see :class:`MultiLabelDataModule`.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str = "data/demo",
        train_images: int = 2000,
        test_images: int = 600,
        scene_size: int = 128,
        scene_seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(root=root, **settings)
        if self.folders["train"] != "train2014":
            raise MlclError("data.year: the demo's scenes have the names of COCO 2014; leave it out")
        self.scenes = {"train": train_images, "val": test_images, "size": scene_size, "seed": scene_seed}

    def prepare_data(self) -> None:
        """Write the scenes where they are not there yet."""
        write_scenes(self.root, **self.scenes)
        super().prepare_data()
