"""Real files for the tests: pictures, and tiny data sets in the layouts of PASCAL VOC, COCO and a CSV file."""

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mlcl.data.voc import VOC_CLASSES

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WHY_NO_REAL_DATA = "the slices of the real data sets are not beside this checkout (../shared/data)"


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """Smooth as a photograph, no symmetry, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    ImageDraw.Draw(image).rectangle((0, 0, width // 4, height // 4), fill=(255, 0, 0))
    return image


def write_pictures(folder: Path, names: Iterable[str]) -> None:
    """A picture of its own for each name; the ending says the format."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        picture(40, 30, seed).save(folder / name)


def png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    """A PNG file by hand: ``pixels`` are its scan lines, each with its leading filter byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(width: int, height: int, depth: int, pixels: bytes, black_is_zero: bool = True, signed: bool = False) -> bytes:
    """A grey TIFF file by hand, in little-endian order."""
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: int(black_is_zero), 273: 8, 277: 1, 278: height}
    tags |= {279: len(pixels), 339: 1 + signed}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def write_voc(root: Path, sets: Mapping[str, Mapping[str, Mapping[str, int]]], year: str = "2007") -> Path:
    """A devkit under ``root``.

    Args:
        root: folder to hold ``VOCdevkit``.
        sets: image set -> image id -> class -> flag, -1 for the classes not given.
        year: of the devkit.

    Returns:
        ``root/VOCdevkit/VOC<year>``.
    """
    devkit = root / "VOCdevkit" / f"VOC{year}"
    lists = devkit / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, images in sets.items():
        (lists / f"{name}.txt").write_text("".join(f"{image}\n" for image in images))
        for label in VOC_CLASSES:
            lines = [f"{image} {flags.get(label, -1):2d}\n" for image, flags in images.items()]
            (lists / f"{label}_{name}.txt").write_text("".join(lines))
        write_pictures(devkit / "JPEGImages", [f"{image}.jpg" for image in images])
    return devkit


def coco_json(categories: Mapping[int, str], images: Mapping[int, Sequence[Any]]) -> dict[str, Any]:
    """An annotation file's content; an object is a category id, or a dict of what else to say of it."""
    annotations = []
    for image, objects in images.items():
        for what in objects:
            more = what if isinstance(what, dict) else {"category_id": what}
            box = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, "segmentation": []}
            annotations.append({"id": len(annotations) + 1, "image_id": image, **box, **more})
    return {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 40, "height": 30} for i in images],
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "thing"} for i, name in categories.items()],
    }


def write_coco(
    root: Path,
    categories: Mapping[int, str],
    train: Mapping[int, Sequence[Any]],
    val: Mapping[int, Sequence[Any]],
) -> Path:
    """A COCO-2014 tree: category id -> name, and for both splits image id -> objects as in :func:`coco_json`."""
    (root / "annotations").mkdir(parents=True)
    for folder, images in (("train2014", train), ("val2014", val)):
        content = coco_json(categories, images)
        (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(content))
        write_pictures(root / folder, [entry["file_name"] for entry in content["images"]])
    return root


def write_table(root: Path, rows: Sequence[str], name: str = "labels.csv") -> Path:
    """A CSV file; where the first cell of a row is a picture's name, the picture too."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    names = [row.split(",")[0] for row in rows]
    write_pictures(root, [name for name in names if name.endswith((".jpg", ".png"))])
    return root
