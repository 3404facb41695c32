#!/usr/bin/env bash
# Finding: in Datumaro's VOC export ImageSets/Main/<class>_<set>.txt, VOC's image-level labels, come from its Label annotations
# alone: boxes do not count, difficult is never 0, a picture without a label is in no list, and background is a class.
#
# Guess before: as in the VOC devkit: a list for each of the dataset's classes with every picture of the set, 1 where the class has
# a box, 0 where all of its boxes are difficult, else -1.
# Seen (datumaro 1.13.12): with boxes there are XML files and <set>.txt, but no list of any class. With labels and boxes, a picture
# whose only cat is difficult is 1 in cat_train.txt; the picture without anything is in train.txt and in none of the lists of
# classes, which is neither -1 nor absent to a reader that joins them; background_train.txt is all -1.
# Way out: export coco (annotations/instances_*.json or labels_*.json, which list every picture), or read the XML files.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datumaro==1.13.12
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
import logging
import pathlib

import numpy as np
from datumaro.components.annotation import Bbox, Label
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image

logging.disable()


def lists(name, kinds):
    """Name of each list in ImageSets/Main -> its lines."""
    items = []
    for id, difficult in (("sure", False), ("unsure", True), ("nothing", None)):
        cat = [Label(0), Bbox(2, 3, 10, 9, label=0, attributes={"difficult": difficult})]
        found = [one for one in cat if isinstance(one, kinds)] if difficult is not None else []
        picture = Image.from_numpy(data=np.zeros((48, 64, 3), dtype=np.uint8))
        items.append(DatasetItem(id=id, subset="train", media=picture, annotations=found))
    data = Dataset.from_iterable(items, categories=["cat", "dog"])
    data.export(name, "voc", save_media=True)
    data.export(f"{name}_coco", "coco", save_media=True)
    files = pathlib.Path(name, "ImageSets", "Main").glob("*.txt")
    return {file.stem: file.read_text().split("\n")[:-1] for file in sorted(files)}


boxes, both = lists("boxes", (Bbox,)), lists("both", (Label, Bbox))
print("boxes:", boxes)
print("labels and boxes:", both)
assert boxes == {"train": ["sure", "unsure", "nothing"]}, "boxes count now"
flags = {name: [line.split() for line in both[name]] for name in both if name != "train"}
assert set(flags) == {"background_train", "cat_train", "dog_train"}, "other lists"
assert flags["cat_train"] == [["sure", "1"], ["unsure", "1"]], "difficult, or the picture without a label, counts now"
assert both["train"] == ["sure", "unsure", "nothing"]
for name in ("boxes_coco/annotations/instances_train.json", "both_coco/annotations/labels_train.json"):
    content = json.loads(pathlib.Path(name).read_text())
    assert len(content["images"]) == 3 and len(content["annotations"]) == 2, "the way out no longer works"
PYTHON
