#!/usr/bin/env bash
# Finding: a package of AOTInductor reads its input by the strides of the example at export. A tensor of the same shape and type
# that lies in memory in another order, such as a decoded picture (height, width, channels) seen as (channels, height, width),
# gives wrong numbers without an error.
#
# Guess before: as everywhere in torch, strides do not change a result: eager, the exported program and torch.compile agree on
# any view, and a compiled file that needs one order would make it or refuse another.
# Seen (torch 2.14.1, on a CPU): on a contiguous batch the package agrees with eager mode to 1e-6; on the same values
# channels-last it is off by as much as the outputs differ between pictures. The exported program itself is right on both. A
# real classifier's mAP fell from 26 to 8 that way.
# Way out: .contiguous() before every call (a loaded picture's permute(2, 0, 1) is not contiguous), or an example with the strides
# that will come.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy setuptools
cd "$folder"
TORCHINDUCTOR_CACHE_DIR="$folder/cache" venv/bin/python -W ignore - <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 8, 3, 2), nn.ReLU())
        self.classifier = nn.Linear(8, 5)

    def forward(self, pixels):
        return self.classifier(self.trunk(pixels.float() / 255).mean((2, 3)))


network = Classifier().eval()
example = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
program = torch.export.export(network, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1, max=64)}})
package = torch._inductor.aoti_compile_and_package(program, package_path="network.pt2")
compiled = torch._inductor.aoti_load_package(package)

rows = (torch.arange(64) * 4).view(64, 1, 1).expand(64, 48, 3)  # pictures that are not noise: another ramp for each
pictures = torch.stack([rows, rows.flip(0), rows // 2, 255 - rows // 3]).to(torch.uint8) + torch.tensor([0, 60, 3], dtype=torch.uint8)
decoded = pictures.permute(0, 3, 1, 2)  # as decoders give them: channels last in memory
print(f"torch {torch.__version__}")
off = {}
with torch.inference_mode():
    right = network(decoded)
    spread = right.std(0).mean().item()
    for name, batch in (("contiguous", decoded.contiguous()), ("channels last", decoded)):
        assert torch.equal(batch, decoded) and torch.allclose(program.module()(batch), right, atol=1e-5)
        off[name] = (compiled(batch) - right).abs().max().item()
        print(f"{name:14} strides {batch.stride()}: the package is off by {off[name]:.1e}, outputs of pictures differ by {spread:.1e}")
assert off["contiguous"] < 1e-5
assert off["channels last"] > 0.2 * spread, "strides are minded now"
PYTHON
