#!/usr/bin/env bash
# Finding: PyTorchModelHubMixin writes the constructor's default into config.json in place of an argument that JSON cannot take
# (a tensor, an array, a NumPy number, a dtype), and from_pretrained makes the model with it; neither says a word.
#
# Guess before: save_pretrained refuses such an argument, or leaves it out with a warning, as Trainer.save_hyperparameters or
# json.dump would; the file at least does not name another value.
# Seen (huggingface_hub 2.4.0, torch 2.14.1): a model made with threshold=np.float32(0.3) and class_thresholds=torch.tensor(...)
# has "threshold": 0.5 and "class_thresholds": null in its config.json, the defaults, and comes back with these: it decides
# otherwise than the one that was saved. np.float64 is kept, being a Python float. A scale of inf is written as Infinity,
# which is no JSON.
# Way out: plain Python numbers and lists as arguments, float(x) and x.tolist(), or a buffer, which is stored as a weight.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 huggingface_hub==2.4.0 safetensors==0.8.0 numpy==2.4.6
cd "$folder"
export HF_HUB_OFFLINE=1
venv/bin/python - <<'PYTHON'
import json
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin

warnings.simplefilter("error")


class Classifier(torch.nn.Module, PyTorchModelHubMixin):
    def __init__(self, threshold=0.5, double=0.5, class_thresholds=None, scale=1.0):
        super().__init__()
        self.made_with = threshold, double, class_thresholds, scale
        self.linear = torch.nn.Linear(2, 2)


model = Classifier(np.float32(0.3), np.float64(0.3), torch.tensor([0.2, 0.9]), float("inf"))
model.save_pretrained("saved")
text = Path("saved/config.json").read_text()
config, again = json.loads(text), Classifier.from_pretrained("saved")
print(f"huggingface_hub {huggingface_hub.__version__}: made with {model.made_with}, stored {config}, read {again.made_with}")
assert config["threshold"] == 0.5 and again.made_with[0] == 0.5, "a NumPy number is stored now, or left out"
assert "class_thresholds" in config and again.made_with[2] is None, "a tensor is stored now, or left out"
assert config["double"] == 0.3, "np.float64 is not kept"
assert "Infinity" in text, "inf is written otherwise"
kept = Classifier(float(np.float32(0.3)), class_thresholds=torch.tensor([0.25, 0.75]).tolist())
kept.save_pretrained("kept")
assert Classifier.from_pretrained("kept").made_with[2] == [0.25, 0.75], "the way out no longer works"
PYTHON
