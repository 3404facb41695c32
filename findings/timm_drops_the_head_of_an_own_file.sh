#!/usr/bin/env bash
# Finding: timm.create_model(..., pretrained=True, num_classes=80, pretrained_cfg_overlay={"file": ...}) loads a file of one's own
# model with these 80 classes, and leaves its classifier random.
#
# Guess before: the file is what the model is made from; a classifier whose names and shapes fit is loaded, one that does not
# fit is an error, as with checkpoint_path=.
# Seen (timm 1.0.31, torch 2.14.1): the backbone is the file's, the classifier is new, no warning is given (the logger of timm
# stays silent at level WARNING): timm compares num_classes with that of the model's own published weights, 1000, not with the
# file. mAP is that of chance. A file with 1000 classes, whatever they are, is loaded whole.
# Way out: checkpoint_path=; or "num_classes": 80 in the overlay, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 timm==1.0.31 safetensors==0.8.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import logging

import timm
import torch
from safetensors.torch import save_file

warnings = []
handler = logging.Handler(logging.WARNING)
handler.emit = warnings.append
logging.getLogger().addHandler(handler)

torch.manual_seed(0)
trained = timm.create_model("resnet18", num_classes=80)
save_file(trained.state_dict(), "own.safetensors")


def same(overlay=None, **settings):
    """Whether backbone and classifier are those of the file."""
    if overlay is not None:
        settings |= {"pretrained": True, "pretrained_cfg_overlay": {"file": "own.safetensors", **overlay}}
    made = timm.create_model("resnet18", num_classes=80, **settings)
    return torch.equal(made.conv1.weight, trained.conv1.weight), torch.equal(made.fc.weight, trained.fc.weight)


found = same({}), same({"num_classes": 80}), same(checkpoint_path="own.safetensors")
print(f"timm {timm.__version__}: backbone and classifier loaded: overlay {found[0]}, with num_classes in it {found[1]},"
      f" checkpoint_path {found[2]}; warnings {[entry.getMessage() for entry in warnings]}")
assert found[0] == (True, False), "the classifier is loaded now, or the file refused"
assert not warnings, "timm warns now"
assert found[1] == found[2] == (True, True), "the way out no longer works"
PYTHON
