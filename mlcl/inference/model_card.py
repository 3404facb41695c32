"""The ``README.md`` beside exported weights, in the form of the Hugging Face Hub's model cards."""

from typing import Any

from mlcl.inference.model import Model
from mlcl.runs.folders import ABOUT, WEIGHTS
from mlcl.system import yaml_text

_SHOWN = 30  # names of classes
_FEATURES = """```python
import json

import timm
import torch
from safetensors.torch import load_file

about, state = json.load(open("{about}")), load_file("{weights}")
backbone = timm.create_model(about["backbone"], num_classes=0, global_pool="", **about["backbone_kwargs"])
part = "backbone."
backbone.load_state_dict({{name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}})
backbone.eval()
pixels = torch.zeros(1, 3, {size}, {size})  # RGB in [0, 1], resized without keeping the aspect ratio ({interpolation})
features = backbone.forward_features((pixels - state["mean"]) / state["std"])
```
"""


def text(name: str, model: Model, about: dict[str, Any]) -> str:
    """The card of a model called ``name``; ``about`` is what stands in the JSON beside it."""
    head = str(about["head"]["class_path"]).rpartition(".")[2]
    shown, more = ", ".join(_plain(c) for c in model.classes[:_SHOWN]), len(model.classes) - _SHOWN
    parts = [
        f"---\n{yaml_text.dump(_front(name, about)).strip()}\n---",
        f"# {_plain(name)}",
        "Which of the classes below a picture shows: none, one or several (multi-label classification). "
        f"`{about['backbone']}` from timm with the head `{head}` of mlcl {about['mlcl']}; pictures of "
        f"{model.image_size} x {model.image_size} pixels.",
        f"Classes ({len(model.classes)}): {shown}{f' and {more} more, see `{ABOUT}`' if more > 0 else ''}.",
        f"## Data\n\nTrained on mlcl's dataset `{about['dataset']}`; its settings, the versions and the code's commit "
        f"are in `{ABOUT}`.",
        f"## Results\n\n{_results(about['test'])}",
        "## Use\n\nWith mlcl, as any checkpoint of it:",
        '```python\nimport mlcl\n\nmodel = mlcl.load("FOLDER")  # this folder\n'
        'model(["a.jpg"]).labels  # names whose probability reaches their threshold\n```',
        "With timm and torch alone, the features before the head:",
        _FEATURES.format(
            about=ABOUT, weights=WEIGHTS, size=model.image_size, interpolation=model.interpolation
        ).strip(),
        f"{_norm(about)}The head's tensors begin with `head.`; its equations stand in `mlcl.heads.{head}`. A "
        f"probability is sigmoid(logit / {model.temperature:g}). `mlcl export --format onnx` makes one file of all.",
        "## Limits\n\nThe model knows no other classes, and its thresholds fit pictures like those it was trained and "
        "tested on. No licence is stated: that of the training pictures and of the weights it started from applies.",
    ]
    return "\n\n".join(parts) + "\n"


def _front(name: str, about: dict[str, Any]) -> dict[str, Any]:
    """The metadata that the Hub reads."""
    front: dict[str, Any] = {
        "library_name": "mlcl",
        "pipeline_tag": "image-classification",
        "tags": ["multi-label-classification", "timm", "pytorch"],
    }
    if (test := about["test"]) is None:
        return front
    values = [(metric, value) for metric, value in test["metrics"].items() if value is not None]
    result = {
        "task": {"type": "image-classification", "name": "Multi-label image classification"},
        "dataset": {"type": about["dataset"].lower(), "name": about["dataset"], "split": "test"},
        "metrics": [{"type": metric, "name": metric, "value": round(value, 6)} for metric, value in values],
    }
    return {**front, "model-index": [{"name": name, "results": [result]}]}


def _results(test: dict[str, Any] | None) -> str:
    if test is None:
        return "No test of this checkpoint was found in its run, so there are no numbers."
    rows = [f"| {name} | {100 * value:.2f} |" for name, value in test["metrics"].items() if value is not None]
    tta = f", with tta {test['tta']}" if "tta" in test else ""
    said = "; ".join(f"{name}: {value}" for name, value in test["definitions"].items())
    table = "\n".join(("| | % |", "|---|---|", *rows))
    return f"On the {test['N']:,} test images of the run{tta}, by `mlcl test`:\n\n{table}\n\n{_plain(said)}."


def _norm(about: dict[str, Any]) -> str:
    if not about["feature_norm"]:
        return ""
    return (
        "The head takes them with mean 0 and variance 1 over the channels of each position (`torch.nn.LayerNorm` "
        "without weights). "
    )


def _plain(text: str) -> str:
    """A name that cannot be Markdown or HTML."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in " ".join(text.split()))
