"""Tiny datasets of objects and verified labels: what exporters of COCO's form write, LVIS, Open Images."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.trees import write_pictures

Images = Mapping[str, Sequence[str]]  # file name -> a class for each object
ROBOFLOW = [(0, "animals", "none"), (1, "cat", "animals"), (2, "dog", "animals"), (5, "emu", "animals")]
CLASSES = ("cat", "dog", "emu")
TRAIN: Images = {f"{i}.jpg": names for i, names in enumerate([["cat", "cat"], ["dog"], [], ["emu", "cat"]] * 2)}
VAL: Images = {"v1.jpg": ["cat"], "v2.jpg": ["dog", "emu"], "v3.jpg": []}
TEST: Images = {"t1.jpg": ["emu"], "t2.jpg": ["cat", "dog"], "t3.jpg": ["cat"]}


def export(
    images: Images, categories: Sequence[tuple[int, str, str]] = ROBOFLOW, first: int = 0, prefix: str = ""
) -> dict[str, Any]:
    """The content of an annotation file.

    Args:
        images: file name -> a class for each object.
        categories: id, name and supercategory.
        first: id of the first image.
        prefix: what stands before each file name.
    """
    ids = {name: id for id, name, _ in categories}
    pairs = [(first + k, name) for k, names in enumerate(images.values()) for name in names]
    box = {"bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0, "segmentation": []}
    return {
        "categories": [{"id": id, "name": name, "supercategory": above} for id, name, above in categories],
        "images": [{"id": first + k, "file_name": f"{prefix}{name}"} for k, name in enumerate(images)],
        "annotations": [{"id": n, "image_id": i, "category_id": ids[name], **box} for n, (i, name) in enumerate(pairs)],
    }


def write_json(file: Path, content: Any) -> Path:
    """A JSON file and its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def write_roboflow(root: Path) -> Path:
    """A folder per split, each with pictures and ``_annotations.coco.json``."""
    for split, images in (("train", TRAIN), ("valid", VAL), ("test", TEST)):
        write_json(root / split / "_annotations.coco.json", export(images))
        write_pictures(root / split, images)
    return root


def write_cvat(root: Path, below: bool = True) -> Path:
    """``annotations/`` and ``images/``, with a folder per subset or without."""
    plain = [(k + 1, name, "") for k, name in enumerate(CLASSES)]
    for subset, images in (("Train", TRAIN), ("Validation", VAL), ("Test", TEST)):
        write_json(root / "annotations" / f"instances_{subset}.json", export(images, plain, first=1))
        write_pictures(root / "images" / subset if below else root / "images", images)
    return root


def write_label_studio(root: Path, prefix: str = "images/") -> Path:
    """One file ``result.json``, ids from 0, no supercategories."""
    content = export(TRAIN, [(k, name, "") for k, name in enumerate(CLASSES)], prefix=prefix)
    for category in content["categories"]:
        del category["supercategory"]
    write_json(root / "result.json", content)
    write_pictures(root / "images", TRAIN)
    return root


def write_fiftyone(root: Path) -> Path:
    """``labels.json`` and ``data/`` for each split."""
    for split, images in (("train", TRAIN), ("validation", VAL), ("test", TEST)):
        content = export(images, [(k, name, None) for k, name in enumerate(CLASSES)], first=1)
        write_json(root / split / "labels.json", content)
        write_pictures(root / split / "data", images)
    return root


LVIS_NAMES = {1: "aerosol_can", 2: "bow_(weapon)", 7: "cat", 4: "dog"}  # by id: aerosol_can, bow_(weapon), dog, cat


def lvis_json(images: Iterable[Mapping[str, Any]], names: Mapping[int, str] = LVIS_NAMES) -> dict[str, Any]:
    """The content of an LVIS file; an image has ``id``, ``part`` (its folder), ``present``, ``absent``, ``some``."""
    entries, annotations = [], []
    for image in images:
        url = f"http://images.cocodataset.org/{image['part']}/{image['id']:012d}.jpg"
        more = {"neg_category_ids": image["absent"], "not_exhaustive_category_ids": image.get("some", [])}
        entries.append({"id": image["id"], "coco_url": url, "width": 40, "height": 30, **more})
        for id in image["present"]:
            box = {"bbox": [1, 1, 9, 9], "area": 81, "segmentation": [[1, 1, 10, 1, 10, 10, 1, 10]]}
            annotations.append({"id": len(annotations), "image_id": image["id"], "category_id": id, **box})
    categories = [{"id": id, "name": name, "synset": f"{name}.n.01", "frequency": "r"} for id, name in names.items()]
    return {"images": entries, "annotations": annotations, "categories": categories}


LVIS_TRAIN = [
    {"id": 9, "part": "train2017", "present": [7, 7, 4], "absent": [1]},
    {"id": 3, "part": "train2017", "present": [2], "absent": [7, 4], "some": [2]},
    {"id": 5, "part": "train2017", "present": [], "absent": [2]},
    {"id": 12, "part": "train2017", "present": [1], "absent": []},
]
LVIS_VAL = [
    {"id": 20, "part": "val2017", "present": [7], "absent": [4]},
    {"id": 21, "part": "train2017", "present": [4], "absent": [7]},
    {"id": 22, "part": "val2017", "present": [1, 2], "absent": []},
]


def write_lvis(root: Path, version: str = "v1") -> Path:
    """Both files in ``annotations/``, and the pictures."""
    for part, images in (("train", LVIS_TRAIN), ("val", LVIS_VAL)):
        write_json(root / "annotations" / f"lvis_{version}_{part}.json", lvis_json(images))
        for image in images:
            write_pictures(root / image["part"], [f"{image['id']:012d}.jpg"])
    return root


OPEN_DESCRIPTIONS = ["LabelName,DisplayName", '/m/0b,"Bat, animal"', "/m/0a,Crane", "/m/0c,Crane", "/m/0d,Dog"]
OPEN_ROWS = {  # split -> rows of ImageID,Source,LabelName,Confidence
    "train": [
        "000a,verification,/m/0a,1",
        "000a,verification,/m/0b,0",
        "000b,crowdsource-verification,/m/0b,1",
        "000b,verification,/m/0d,0",
        "000c,verification,/m/0c,1",
        "000c,verification,/m/0a,0",
        "000d,verification,/m/0d,1",
        "000d,verification,/m/0c,0",
    ],
    "validation": ["00a0,verification,/m/0a,1", "00a1,verification,/m/0a,0", "00a1,verification,/m/0d,1"],
    "test": ["00b0,verification,/m/0d,1", "00b1,verification,/m/0d,0", "00b1,verification,/m/0b,1"],
}


def write_open_images(root: Path, rows: Mapping[str, Sequence[str]] | None = None, pictures: bool = True) -> Path:
    """The tables of V6 and the pictures of all their images."""
    for split, lines in (OPEN_ROWS if rows is None else rows).items():
        start = "oidv6-" if split == "train" else ""
        file = root / f"{start}{split}-annotations-human-imagelabels.csv"
        root.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["ImageID,Source,LabelName,Confidence", *lines, ""]))
        if pictures:
            write_pictures(root / split, [f"{id}.jpg" for id in dict.fromkeys(line.split(",")[0] for line in lines)])
    (root / "class-descriptions.csv").write_text("\n".join([*OPEN_DESCRIPTIONS, ""]))
    return root
