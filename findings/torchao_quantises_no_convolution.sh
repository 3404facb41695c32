#!/usr/bin/env bash
# Finding: torchao's quantize_(model, Int8WeightOnlyConfig()) leaves every convolution as it is, so that a convolutional network
# stays in float32 but for its last layer; and with a 1x1 convolution as classifier, entirely. It says nothing.
#
# Guess before: as torch.ao's quantisation before it, and as onnxruntime's and OpenVINO's, it takes the layers that have weights;
# the file becomes about a quarter of its size.
# Seen (torchao 0.18.0, torch 2.14.1): of a network with convolutions and a linear classifier, the convolutions' weights are plain
# tensors afterwards, the bytes hardly change, and their output before the classifier is equal to the last bit. With a 1x1
# convolution as classifier the outputs are equal to the last bit, too, with weight-only and dynamic quantisation alike.
# Way out: onnxruntime's quantize_static or OpenVINO's NNCF for convolutional networks; torchao for transformers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchao==0.18.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy
import io

import torch
import torchao
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

torch.manual_seed(0)


def network(classifier):
    trunk = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.Conv2d(64, 128, 3, 2), nn.ReLU(), nn.Conv2d(128, 256, 3, 2), nn.ReLU()]
    if classifier == "convolution":
        return nn.Sequential(*trunk, nn.Conv2d(256, 80, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 80)).eval()


def size(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


pictures = torch.randn(2, 3, 64, 64)
print(f"torch {torch.__version__}, torchao {torchao.__version__}")
for classifier in ("linear", "convolution"):
    for config in (Int8WeightOnlyConfig(), Int8DynamicActivationInt8WeightConfig()):
        model = network(classifier)
        quantised = copy.deepcopy(model)
        quantize_(quantised, config)
        with torch.inference_mode():
            outputs = torch.equal(model(pictures), quantised(pictures))
            features = torch.equal(model[:6](pictures), quantised[:6](pictures))
        kinds = [type(layer.weight.data).__name__ for layer in quantised if isinstance(layer, nn.Conv2d)]
        share = size(quantised) / size(model)
        print(f"{classifier:12} {type(config).__name__:38} {share:.2f} of the bytes; convolutions hold {set(kinds)}; features "
              f"equal: {features}, outputs equal: {outputs}")
        assert set(kinds) == {"Tensor"} and features, "convolutions are quantised now"
        assert share > 0.9, "the file shrinks now"
        assert outputs == (classifier == "convolution")
PYTHON
