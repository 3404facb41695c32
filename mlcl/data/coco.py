"""MS-COCO 2014, and anything in its layout."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mlcl.data.base import MultiLabelDataModule, Split
from mlcl.data.dataset import Samples
from mlcl.data.download import fetch
from mlcl.data.file_names import below, checked, short
from mlcl.data.labels import encode
from mlcl.data.row_file import cache_folder
from mlcl.errors import MlclError
from mlcl.system.files import write_whole

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
_ID = int | float | str
_KEYS: dict[str, dict[str, Any]] = {  # the keys that are used, of the entries of each list
    "categories": {"id": _ID, "name": str},
    "images": {"id": _ID, "file_name": str},
    "annotations": {"image_id": _ID, "category_id": _ID},
}
_LONGEST = 5000  # characters of a name: NumPy uses as many for every other name, 4 bytes each
_CACHE_FORMAT = 3  # to be raised when _parse returns something else
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
        """Download if asked to; check that every image is there."""
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
        samples = read_coco(annotations, self.root / folder, self.classes)
        if unused := int(_cached(annotations)["unused"]):
            self.notes[split] = f"{split}: {unused:,} annotations are of images that {annotations.name} does not list"
        return samples


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
    """The parsed file. Parsing COCO's own takes 10 s and 2 GB in every process; reading this cache takes 0.1 s."""
    state = annotations.stat()
    key = f"{_CACHE_FORMAT}:{annotations.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    name = f"{annotations.stem}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.npz"
    cache = cache_folder() / "labels" / name
    with suppress(Exception):  # missing or damaged
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in ("classes", "file_names", "targets", "unused")}
    table = _parse(annotations)
    with suppress(MlclError):  # without a cache it is only slower
        write_whole(cache, lambda partial: np.savez_compressed(partial, **table))
    return table


def _parse(annotations: Path) -> dict[str, Any]:
    """Not by pycocotools, which silently drops an image whose id is that of another."""
    try:
        content = json.loads(annotations.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MlclError(f"{annotations} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise _NotCOCO(annotations, "it is nested without end") from None
    except ValueError as error:  # truncated or wrong JSON, with its line; or not UTF-8
        raise _NotCOCO(annotations, str(error)) from None
    categories, images, objects = (_entries(content, key, annotations) for key in _KEYS)
    categories = sorted(categories, key=lambda entry: _order(_number(entry["id"])))
    images = sorted(images, key=lambda entry: _order(entry["id"]))
    column, row = _places(categories, "categories", annotations), _places(images, "images", annotations)
    present: list[set[int]] = [set() for _ in images]
    unused = 0
    for number, entry in enumerate(objects):
        if (category := _number(entry["category_id"])) not in column:
            unknown = short(repr(entry["category_id"]))
            raise _NotCOCO(annotations, f"annotations[{number}]: category {unknown} is unknown")
        if (image := _number(entry["image_id"])) in row:  # many use a part of the images with all of the annotations
            present[row[image]].add(column[category])
        else:
            unused += 1
    if objects and not any(present):
        raise MlclError(
            f"{annotations}: none of its {len(objects):,} annotations belongs to one of its {len(images):,} images: "
            f"image_id {short(repr(objects[0]['image_id']))} is none of {short(str([i['id'] for i in images[:5]]))}..."
        )
    names = [checked(entry["file_name"], f"{annotations}, image {entry['id']}") for entry in images]
    return {
        "classes": np.array([entry["name"] for entry in categories], dtype=str),
        "file_names": np.array(names, dtype=str),
        "targets": encode(present, len(column)),
        "unused": np.array(unused),
    }


class _NotCOCO(MlclError):
    def __init__(self, annotations: Path, reason: str) -> None:
        super().__init__(f"{annotations} is not a COCO annotation file: {reason}")


def _entries(content: Any, key: str, annotations: Path) -> list[dict[str, Any]]:
    """One of the lists in the file; what we use of each entry is number or text."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise _NotCOCO(annotations, f"it has no list {key!r}")
    for number, entry in enumerate(entries):
        for name, kind in _KEYS[key].items():
            value = entry.get(name) if isinstance(entry, dict) else None
            if not isinstance(value, kind) or value != value or len(str(value)) > _LONGEST:  # NaN differs from itself
                raise _NotCOCO(annotations, f"{key}[{number}]: {name} is {short(repr(value))}")
    return entries


def _number(id: Any) -> Any:
    """An id as a number if it is one: exporters write 3, 3.0, "3" and "003", at times all in one file."""
    text = re.fullmatch(r"\s*(-?[0-9]{1,300})(\.0*)?\s*", id) if isinstance(id, str) else None
    return int(text[1]) if text else id


def _order(id: Any) -> tuple[bool, Any]:
    """Numbers before text."""
    return isinstance(id, str), id


def _places(entries: list[dict[str, Any]], key: str, annotations: Path) -> dict[Any, int]:
    """The position of each id."""
    places: dict[Any, int] = {}
    for place, entry in enumerate(entries):
        first = places.setdefault(_number(entry["id"]), place)
        if first != place:
            ids = dict.fromkeys(short(repr(entries[n]["id"])) for n in (first, place))
            raise _NotCOCO(annotations, f"two of the {key} have the id {' and '.join(ids)}")
    return places
