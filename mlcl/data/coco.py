"""MS-COCO 2014, and anything in its layout."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mlcl.data.base import MultiLabelDataModule, Split
from mlcl.data.coco_file import load, selected
from mlcl.data.dataset import Samples
from mlcl.data.download import fetch
from mlcl.data.file_names import below, short
from mlcl.data.labels import encode
from mlcl.data.regions import Regions, of_coco
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

    def read_regions(self, source: Split, paths: Sequence[Path]) -> Regions | None:
        """From the same annotation file: polygons, run lengths, or boxes."""
        folder = _FOLDERS[source]
        annotations = self.root / "annotations" / f"instances_{folder}.json"
        return of_coco(
            annotations, lambda: read_coco(annotations, self.root / folder, self.classes).paths, self.classes, paths
        )


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


def _cached(annotations: Path, min_area: float = 0, crowd: str = "keep") -> dict[str, Any]:
    """The parsed file. Parsing COCO's own takes 10 s and 2 GB in every process; reading this cache takes 0.1 s."""
    state = annotations.stat()
    key = f"{_CACHE_FORMAT}:{annotations.resolve()}:{state.st_size}:{state.st_mtime_ns}:{min_area}:{crowd}"
    name = f"{annotations.stem}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.npz"
    cache = cache_folder() / "labels" / name
    with suppress(Exception):  # missing or damaged
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in ("classes", "file_names", "targets", "unused")}
    table = _parse(annotations, min_area, crowd)
    with suppress(MlclError):  # without a cache it is only slower
        write_whole(cache, lambda partial: np.savez_compressed(partial, **table))
    return table


def _parse(annotations: Path, min_area: float, crowd: str) -> dict[str, Any]:
    content = load(annotations)
    present: list[set[int]] = [set() for _ in content.images]
    for row, column, _ in selected(content, content.names, min_area, crowd):
        present[row].add(column)
    return {
        "classes": np.array(content.names, dtype=str),
        "file_names": np.array([entry["file_name"] for entry in content.images], dtype=str),
        "targets": encode(present, len(content.names)),
        "unused": np.array(content.unused),
    }
