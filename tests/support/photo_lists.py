"""NUS-WIDE and Visual Genome 500 in their own forms: the original lists, ASL's table, SSGRL's lists."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.trees import write_pictures

from mlcl.data.nuswide import NUSWIDE_CLASSES

Labelled = Mapping[str, Sequence[str]]  # path -> names of concepts


def write_nuswide(root: Path, train: Labelled, test: Labelled, end: str = "\n", images: str = "Flickr") -> Path:
    """The original files: lists with the backslashes of Windows, and a file of 0 and 1 for each concept and set."""
    labels = root / "Groundtruth" / "TrainTestLabels"
    for folder in (labels, root / "ImageList", root / "ConceptsList"):
        folder.mkdir(parents=True)
    (root / "ConceptsList" / "Concepts81.txt").write_bytes("".join(f"{c}{end}" for c in NUSWIDE_CLASSES).encode())
    for name, photos in (("Train", train), ("Test", test)):
        lines = [path.replace("/", "\\") for path in photos]
        (root / "ImageList" / f"{name}Imagelist.txt").write_bytes("".join(f"{line}{end}" for line in lines).encode())
        for concept in NUSWIDE_CLASSES:
            column = "".join(f"{int(concept in present)}{end}" for present in photos.values())
            (labels / f"Labels_{concept}_{name}.txt").write_bytes(column.encode())
    write_photos(root / images, [*train, *test])
    return root


def write_nuswide_table(root: Path, train: Labelled, test: Labelled, header: str = "filepath,label,split_name") -> Path:
    """ASL's table: a path, the names as Python prints a list, train or val."""
    parts = [
        (path, names, part) for part, photos in (("train", train), ("val", test)) for path, names in photos.items()
    ]
    rows = [header, *(f'{path},"{list(names)}",{part}' for path, names, part in parts)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "nus_wid_data.csv").write_text("".join(f"{row}\n" for row in rows))
    write_photos(root, [*train, *test])
    return root


def write_vg500(root: Path, train: Mapping[str, Sequence[int]], test: Mapping[str, Sequence[int]]) -> Path:
    """SSGRL's lists and the index of labels; every other picture lies in the second folder."""
    for name, images in (("train", train), ("test", test)):
        (root / f"{name}_list_500.txt").write_text("".join(f"{image}\n" for image in images))
    index = {image: list(labels) for image, labels in {**train, **test}.items()}
    (root / "vg_category_500_labels_index.json").write_text(json.dumps(index))
    write_pictures(root / "VG_100K", list(index)[::2])
    write_pictures(root / "VG_100K_2", list(index)[1::2])
    return root


def write_photos(folder: Path, paths: Sequence[str]) -> None:
    """A picture at each path below a folder."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_pictures(folder, paths)
