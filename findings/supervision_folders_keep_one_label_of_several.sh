#!/usr/bin/env bash
# Finding: supervision's ClassificationDataset takes several classes for a picture, and as_folder_structure writes the first of
# them, without a word.
#
# Guess before: Classifications holds an array of class ids, so a picture with several labels is copied into each of their folders
# (Datumaro's imagenet does so), or it is refused, since a folder per class cannot hold them.
# Seen (supervision 0.31.2): a picture with the classes 0 and 1 is in the first folder only, one with 1 and 0 in the other: the
# order of the array decides. With confidences it is the highest. Reading the folders back gives one label per picture.
# Way out: write a table of the labels yourself; the folders are for one label per picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet supervision==0.31.2
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import pathlib

import numpy as np
import supervision as sv
from PIL import Image

LABELS = {"01.png": [0, 1], "10.png": [1, 0], "1.png": [1]}
for name in LABELS:
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(name)
labels = {name: sv.Classifications(class_id=np.array(ids)) for name, ids in LABELS.items()}
sv.ClassificationDataset(["cat", "dog"], list(LABELS), labels).as_folder_structure("folders")
found = {folder.name: sorted(p.name for p in folder.iterdir()) for folder in sorted(pathlib.Path("folders").iterdir())}
again = sv.ClassificationDataset.from_folder_structure("folders")
back = {pathlib.Path(name).name: one.class_id.tolist() for name, one in again.annotations.items()}
print(f"supervision {sv.__version__}: given {LABELS}; folders {found}; read back {back}")
assert found == {"cat": ["01.png"], "dog": ["1.png", "10.png"]}, "several labels are written, or refused, now"
assert all(len(ids) == 1 for ids in back.values())
PYTHON
