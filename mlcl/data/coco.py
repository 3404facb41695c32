"""MS-COCO 2014, and anything in its layout."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mlcl.data.base import MultiLabelDataModule, Split
from mlcl.data.dataset import Samples
from mlcl.data.download import fetch
from mlcl.data.file_names import below, checked, short
from mlcl.data.labels import encode
from mlcl.errors import MlclError

# In the order of the category ids, which run from 1 to 90 with holes.
COCO_CLASSES = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
    bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
    snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,
    fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,
    potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,
    refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n    ", "").split(",")
)
_HOST = "http://images.cocodataset.org"
_ARCHIVES = (
    (f"{_HOST}/annotations/annotations_trainval2014.zip", "0a379cfc70b0e71301e0f377548639bd", "annotations"),
    (f"{_HOST}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", "train2014"),
    (f"{_HOST}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", "val2014"),
)
_KEYS = {"categories": ("id", "name"), "images": ("id", "file_name"), "annotations": ("image_id", "category_id")}
_CACHE_FORMAT = 2  # to be raised with the meaning of what _parse returns
_FOLDERS: dict[Split, str] = {"train": "train2014", "test": "val2014"}


class COCO2014(MultiLabelDataModule):
    """MS-COCO 2014: train2014 (82,783 images, 702 without a label) and val2014 (40,504, 367 without) as the test.

    Papers that drop the images without a label (ML-GCN, ASL, MulCon) have 82,081 and 40,137: ``empty_images: drop``.
    ``root`` holds ``annotations/instances_{train,val}2014.json``, ``train2014/`` and ``val2014/``.

    Args:
        download: fetch the archives (19 GB) where the tree is missing, checksums verified.
        **settings: see :class:`MultiLabelDataModule`.
    """

    classes = COCO_CLASSES

    def __init__(self, root: str = "data/coco", download: bool = False, **settings: Any) -> None:
        super().__init__(root=root, **settings)
        self.download = download

    def prepare_data(self) -> None:
        """Download where asked to; check that the tree is whole."""
        if self.download:
            for url, md5, folder in _ARCHIVES:
                fetch(url, self.root, md5, self.root / folder)
        super().prepare_data()

    def read_split(self, split: Split) -> Samples | None:
        """``train`` is train2014, ``test`` is val2014; there is no validation split of its own."""
        if split not in _FOLDERS:
            return None
        folder = _FOLDERS[split]
        annotations = self.root / "annotations" / f"instances_{folder}.json"
        if not annotations.is_file():
            raise MlclError(
                f"{annotations} is missing: give --data.root a folder in the COCO layout (annotations/, train2014/, "
                "val2014/), or download it with --data.download true"
            )
        return read_coco(annotations, self.root / folder, self.classes)


def read_coco(annotations: Path, images: Path, classes: tuple[str, ...]) -> Samples:
    """Paths and targets from a COCO annotation file; an object of any size, crowds included, makes its class present.

    Args:
        annotations: an ``instances_*.json``.
        images: folder of the pictures.
        classes: the names expected, in the order of the category ids.

    Raises:
        MlclError: if the file is not COCO JSON, its categories are others, or a name leads out of the folder that
            holds the folder of pictures.
    """
    table = _cached(annotations)
    names = tuple(str(name) for name in table["classes"])
    if names != classes:
        differ = sorted(set(names) ^ set(classes)) or ["their order"]
        listed = short(", ".join(differ[:5]))
        raise MlclError(f"{annotations} has {len(names)} categories, expected {len(classes)}; different: {listed}")
    place, root = str(annotations), images.parent
    return Samples([below(images, name, root, place) for name in table["file_names"].tolist()], table["targets"])


def _cached(annotations: Path) -> dict[str, Any]:
    """The parsed file. COCO's own costs 10 s and 2 GB in every process; this costs 0.1 s after the first time."""
    state = annotations.stat()
    key = f"{_CACHE_FORMAT}:{annotations.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    name = f"{annotations.stem}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.npz"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlcl" / "labels"
    cache = folder / name
    if cache.is_file():
        try:
            with cache.open("rb") as file, np.load(file) as stored:  # no pickle: arrays of numbers and text only
                return {key: stored[key] for key in ("classes", "file_names", "targets")}
        except Exception:  # damaged: parse again and replace it
            cache.unlink(missing_ok=True)
    table = _parse(annotations)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".npz", delete=False) as partial:
            np.savez_compressed(partial, **table)
        os.replace(partial.name, cache)  # several processes may do this at once; each writes the same
    except OSError:
        pass  # no place for a cache: only slower
    return table


def _parse(annotations: Path) -> dict[str, Any]:
    """Read and checked by hand: pycocotools takes two images with one id for one, and a file without annotations."""
    try:
        with annotations.open(encoding="utf-8-sig") as file:
            content = json.load(file)
    except OSError as error:
        raise MlclError(f"{annotations} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise _NotCOCO(annotations, "it is nested without end") from None
    except ValueError as error:  # truncated or wrong JSON, with its line; or no UTF-8
        raise _NotCOCO(annotations, str(error)) from None
    categories, images, objects = (_entries(content, key, annotations) for key in _KEYS)
    column = {category: k for k, category in enumerate(_in_order(categories, "categories", annotations))}
    ids = _in_order(images, "images", annotations)
    present: dict[Any, set[int]] = {image: set() for image in ids}
    for number, entry in enumerate(objects):
        if not _is_id(entry["category_id"]) or entry["category_id"] not in column:
            named = short(repr(entry["category_id"]))
            raise _NotCOCO(annotations, f"annotations[{number}]: category {named} is missing or unknown")
        if not _is_id(entry["image_id"]):
            raise _NotCOCO(annotations, f"annotations[{number}]: image_id is {short(repr(entry['image_id']))}")
        if entry["image_id"] in present:  # else of an image that is not listed: a part of the images, as many use it
            present[entry["image_id"]].add(column[entry["category_id"]])
    names = {entry["id"]: checked(entry["file_name"], f"{annotations}, images[{n}]") for n, entry in enumerate(images)}
    classes = {entry["id"]: entry["name"] for entry in categories}
    for name in classes.values():
        if not isinstance(name, str) or len(name) > 1000:
            raise _NotCOCO(annotations, f"a category is called {short(repr(name))}")
    return {
        "classes": np.array([classes[category] for category in column], dtype=str),
        "file_names": np.array([names[image] for image in ids], dtype=str),
        "targets": encode(list(present.values()), len(column)),
    }


class _NotCOCO(MlclError):
    def __init__(self, annotations: Path, reason: str) -> None:
        super().__init__(f"{annotations} is not a COCO annotation file: {reason}")


def _entries(content: Any, key: str, annotations: Path) -> list[dict[str, Any]]:
    """One of the lists in the file, its entries with all that is needed of them."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise _NotCOCO(annotations, f"it has no list {key!r}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _NotCOCO(annotations, f"{key}[{number}] is {short(repr(entry))}")
        for needed in _KEYS[key]:
            if needed not in entry:
                raise _NotCOCO(annotations, f"{key}[{number}]: {needed!r} is missing")
    return entries


def _in_order(entries: list[dict[str, Any]], key: str, annotations: Path) -> list[Any]:
    """Their ids, sorted."""
    seen: dict[Any, int] = {}
    for number, entry in enumerate(entries):
        own = entry["id"]
        if not _is_id(own):
            raise _NotCOCO(annotations, f"{key}[{number}]: id is {short(repr(own))}")
        if own in seen:
            raise _NotCOCO(annotations, f"{key}[{number}]: id {short(repr(own))} is also that of {key}[{seen[own]}]")
        seen[own] = number
    try:
        return sorted(seen)
    except TypeError:
        raise _NotCOCO(annotations, f"the ids of {key} are numbers and text") from None


def _is_id(value: Any) -> bool:
    """Number or text; NaN, which is not even itself, is none."""
    return isinstance(value, int | float | str) and value == value
