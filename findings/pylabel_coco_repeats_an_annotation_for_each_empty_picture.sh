#!/usr/bin/env bash
# Finding: PyLabel's COCO export writes the annotation before it once more for each picture without a box.
#
# Guess before: a picture without boxes is an entry of `images` and nothing else; the number of annotations survives a round
# trip from COCO to COCO.
# Seen (pylabel 0.1.55 with pandas 2.3.3): of three pictures with one box, none and none, three annotations are written, all of the
# same image, box and even id, so counts of objects, class weights from them and average precisions of detectors are wrong,
# while which classes an image has is right. (With pandas 3 the import of such a file fails.)
# Way out: drop annotations whose id repeats.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pylabel==0.1.55 pandas==2.3.3
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import json
import pathlib

from pylabel import importer

content = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in (1, 2, 3)],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 9], "area": 90, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}],
}
pathlib.Path("given.json").write_text(json.dumps(content))
importer.ImportCoco("given.json").export.ExportToCoco("written.json")
written = json.loads(pathlib.Path("written.json").read_text())
entries = [(entry["id"], entry["image_id"], entry["category_id"], entry["bbox"]) for entry in written["annotations"]]
print(f"{len(content['annotations'])} annotation given, written: {entries}; {len(written['images'])} images")
assert len(written["images"]) == 3
assert len(entries) == 3 and entries[0] == entries[1] == entries[2], "it is written once now"
assert len({entry[0] for entry in entries}) == 1, "the way out no longer works"
PYTHON
