#!/usr/bin/env bash
# Finding: Label Studio's Pascal VOC export writes no file for a picture whose first result is a choice, whatever boxes follow it.
#
# Guess before: VOC has no place for choices, so they are left out and the boxes are written, as in the COCO and YOLO exports of
# the same project; the order in which an annotator worked does not matter.
# Seen (label-studio-sdk 2.1.2): of two pictures with the same box and the same choice, the one whose box was drawn first has its
# XML file, the one whose choice was made first has none; nothing is said. The size of the picture is taken from the first
# result, and a choice, being of the whole picture, has none. COCO and YOLO have the box of both.
# Way out: export COCO or YOLO from a project with both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet label-studio-sdk==2.1.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
import pathlib

from label_studio_sdk.converter import Converter

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image"><Label value="cat"/></RectangleLabels>
<Choices name="scene" toName="image"><Choice value="indoors"/></Choices></View>"""
where = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
box = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": where}
box |= {"original_width": 64, "original_height": 48}
choice = {"from_name": "scene", "to_name": "image", "type": "choices", "value": {"choices": ["indoors"]}}
tasks = [
    {
        "id": id,
        "data": {"image": f"/data/upload/1/{name}.jpg"},
        "annotations": [{"id": id, "result": result, "was_cancelled": False, "completed_by": 1}],
    }
    for id, name, result in ((1, "box_first", [box, choice]), (2, "choice_first", [choice, box]))
]
pathlib.Path("tasks.json").write_text(json.dumps(tasks))
for format in ("VOC", "COCO", "YOLO"):
    Converter(CONFIG, ".").convert("tasks.json", format, format, is_dir=False)
files = sorted(file.name for file in pathlib.Path("VOC/Annotations").glob("*.xml"))
coco = json.loads(pathlib.Path("COCO/result.json").read_text())["annotations"]
yolo = sorted(file.name for file in pathlib.Path("YOLO/labels").glob("*.txt") if file.read_text().strip())
print(f"VOC: {files}; COCO: boxes of {len({entry['image_id'] for entry in coco})} pictures; YOLO: {yolo}")
assert files == ["box_first.xml"], "the order no longer matters"
assert len({entry["image_id"] for entry in coco}) == len(yolo) == 2, "the way out no longer works"
PYTHON
