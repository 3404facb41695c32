#!/usr/bin/env bash
# Finding: the COCO file that V7's darwin-py exports holds the tags (labels of whole pictures) beside COCO's lists, in
# images[].tag_ids and tag_categories; to pycocotools a project of tags has no category and no annotation.
#
# Guess before: tags are lost, as in its VOC and YOLO exports, or are annotations without a box; categories holds all classes of the
# project; ids count from 0 or 1.
# Seen (darwin-py 3.6.3, pycocotools 2.0.11): categories holds the classes of boxes and polygons only, and annotations theirs;
# of a picture with the tag cat and a box dog every reader of COCO sees the dog alone. The ids of categories and pictures are
# CRC-32 sums of their names, many of them beyond a signed 32-bit integer, and the order of the ids is that of the sums.
# Way out: join tag_categories to categories, and make an annotation of each of an image's tag_ids; number the classes anew.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet darwin-py==3.6.3 pycocotools==2.0.11
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
import pathlib
import zlib

from darwin.exporter import export_annotations, get_exporter
from pycocotools.coco import COCO

files = []
for name in ("1.jpg", "2.jpg"):
    slot = {"type": "image", "slot_name": "0", "width": 64, "height": 48}
    slot["source_files"] = [{"file_name": name, "url": ""}]
    found = [{"id": f"{name}t", "name": "cat", "slot_names": ["0"], "tag": {}}]
    if name == "1.jpg":
        box = {"x": 2, "y": 3, "w": 10, "h": 9}
        found.append({"id": f"{name}b", "name": "dog", "slot_names": ["0"], "bounding_box": box})
    content = {"version": "2.0", "item": {"name": name, "path": "/", "slots": [slot]}, "annotations": found}
    files.append(pathlib.Path(name).with_suffix(".json"))
    files[-1].write_text(json.dumps(content))
pathlib.Path("out").mkdir()
export_annotations(get_exporter("coco"), files, pathlib.Path("out"))
content = json.loads(pathlib.Path("out/output.json").read_text())
read = COCO("out/output.json")
seen = [read.cats[entry["category_id"]]["name"] for entry in read.anns.values()]
tags = {entry["id"]: entry["name"] for entry in content["tag_categories"]}
print(f"pycocotools sees {[entry['name'] for entry in read.cats.values()]} and {seen}; beside COCO: {tags}")
assert [entry["name"] for entry in read.cats.values()] == seen == ["dog"], "tags are in COCO's lists now"
assert [[tags[id] for id in image["tag_ids"]] for image in content["images"]] == [["cat"], ["cat"]]
assert set(tags) == {zlib.crc32(b"cat")} and set(tags) and max(tags) > 2**31 - 1, "other ids"
PYTHON
