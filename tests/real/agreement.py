"""Do a checkpoint, its ONNX file and its torch.export file say the same of pictures? ``make tour`` asks at its end.

python tests/real/agreement.py CHECKPOINT MODEL.onnx MODEL.pt2 FOLDER
"""

import json
import sys

import numpy as np
import onnxruntime
import torch

import mlcl
from mlcl.data.image_files import find_images


def main(checkpoint: str, onnx: str, exported: str, folder: str, count: int = 50) -> None:
    """Print the largest difference of probabilities and the number of labels; status 1 beyond 1e-4."""
    model = mlcl.load(checkpoint, "cpu")
    paths = find_images([folder])[:count]
    out = model(paths)
    pixels = torch.stack([model.preprocess(path) for path in paths])
    session = onnxruntime.InferenceSession(onnx)
    stored = {"onnx": json.loads(session.get_modelmeta().custom_metadata_map["thresholds"])}
    scores = {"onnx": session.run(None, {"pixels": pixels.numpy()})[0]}
    extra = {"mlcl.json": ""}
    program = torch.export.load(exported, extra_files=extra)
    stored["torch.export"] = json.loads(extra["mlcl.json"])["thresholds"]
    scores["torch.export"] = program.module()(pixels).detach().numpy()
    labels = out.scores.numpy() >= model.thresholds.numpy()
    worst = 0.0
    for name, values in scores.items():
        difference = float(np.abs(values - out.scores.numpy()).max())
        other = int(((values >= np.array(stored[name])) != labels).sum())
        print(f"{name:12} {len(paths)} images, largest difference {difference:.1e}, {other} of {labels.size} labels")
        worst = max(worst, difference, float(other))
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main(*sys.argv[1:])
