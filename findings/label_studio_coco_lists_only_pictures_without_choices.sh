#!/usr/bin/env bash
# Finding: Label Studio's COCO export of a project with choices (image classification) lists only the pictures for which nothing
# was chosen, where the pictures themselves are not at hand (cloud storage, or its converter run on a JSON export).
#
# Guess before: COCO has no place for labels of whole pictures, so the export has all pictures and no annotation, as it has with
# the pictures at hand; or it is refused.
# Seen (label-studio-sdk 2.1.2): of four pictures with the choices cat, none, dog and none, `images` holds the two without, and
# `annotations` is empty: a dataset of the negatives, that reads like one of unlabelled pictures. With the pictures at hand all
# four are listed. A picture is entered when it can be opened, when it has no result, or at its first box; a choice is none of these.
# Way out: export CSV, which has a column with the choices.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet label-studio-sdk==2.1.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import csv
import json
import logging
import pathlib

from label_studio_sdk.converter import Converter
from PIL import Image

logging.disable()
CONFIG = """<View><Image name="image" value="$image"/><Choices name="labels" toName="image" choice="multiple">
<Choice value="cat"/><Choice value="dog"/></Choices></View>"""
tasks = []
for id, chosen in enumerate((["cat"], [], ["dog"], []), 1):
    choice = {"from_name": "labels", "to_name": "image", "type": "choices", "value": {"choices": chosen}}
    annotation = {"id": id, "result": [choice] if chosen else [], "was_cancelled": False, "completed_by": 1}
    tasks.append({"id": id, "data": {"image": f"/data/upload/1/{id}.jpg"}, "annotations": [annotation]})
    pathlib.Path("upload/1").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(f"upload/1/{id}.jpg")
pathlib.Path("tasks.json").write_text(json.dumps(tasks))
listed = {}
for name, uploads in (("not at hand", "elsewhere"), ("at hand", "upload")):
    Converter(CONFIG, ".", upload_dir=uploads).convert("tasks.json", name, "COCO", is_dir=False)
    content = json.loads(pathlib.Path(name, "result.json").read_text())
    listed[name] = sorted(pathlib.Path(image["file_name"]).name for image in content["images"])
    print(f"pictures {name}: {listed[name]}, {len(content['annotations'])} annotations")
    assert not content["annotations"], "COCO holds the choices now"
Converter(CONFIG, ".").convert("tasks.json", "table", "CSV", is_dir=False)
with open("table/result.csv", newline="") as rows:
    choices = [row["labels"] for row in csv.DictReader(rows)]
print("CSV:", choices)
assert listed["not at hand"] == ["2.jpg", "4.jpg"], "other pictures are listed"
assert listed["at hand"] == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"], "even then some are left out"
assert choices == ["cat", "", "dog", ""], "the way out no longer works"
PYTHON
