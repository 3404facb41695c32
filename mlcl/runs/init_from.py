"""Starting from another run's network (``--model.init_from``)."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mlcl.errors import MlclError
from mlcl.runs import record

# VOC's name, COCO's name
_SYNONYMS = {
    **{"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle"},
    **{"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"},
}


def load_network(network: nn.Module, path: str | Path, classes: list[str] | None = None) -> str:
    """Load the tensors of another run's network with the same name and shape; return one line about what was loaded.

    Where the other run had other classes, the head's rows are matched by class name (COCO's and VOC's count as one).
    """
    checkpoint = record.load(path)
    prefix = "network."
    stored = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    stored.pop(record.VECTORS, None)  # those of this run's own file stay
    count, own, matched = len(stored), network.state_dict(), ""
    before = checkpoint[record.KEY].get("classes", [])
    if classes and before and classes != before:
        stored, known = _by_class(stored, own, before, classes)
        matched = f"; other classes, {known} of {len(classes)} known by name"
    fitting = {name: tensor for name, tensor in stored.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise MlclError(f"{path}: none of its {count} tensors fits this network (model.init_from)")
    _check_scale(network, checkpoint, path, any(name.startswith("head.") for name in fitting))
    network.load_state_dict(fitting, strict=False)
    left = [name for name in own if name not in fitting]
    kept = f"; as initialised: {', '.join(left[:4])}{f' and {len(left) - 4} more' * (len(left) > 4)}" if left else ""
    unused = f"{count - len(fitting)} of the file not used"
    return f"init_from {path}: {len(fitting)} of {len(own)} tensors loaded{kept}; {unused}{matched}"


def _check_scale(network: nn.Module, checkpoint: dict[str, Any], path: str | Path, with_head: bool) -> None:
    """Refuse a head that was trained on features of another scale."""
    if not with_head or "config" not in checkpoint[record.KEY]:
        return
    before = record.config_of(checkpoint, path)["model"]["network"]["init_args"].get("feature_norm")
    now = isinstance(getattr(network, "norm", None), nn.LayerNorm)
    if before is not None and bool(before) != now:
        raise MlclError(
            f"{path}: its head was trained with model.network.feature_norm {str(bool(before)).lower()}, this network "
            f"has {str(now).lower()}: give --model.network.feature_norm {str(bool(before)).lower()}"
        )


def _by_class(
    stored: dict[str, Tensor], own: dict[str, Tensor], before: list[str], classes: list[str]
) -> tuple[dict[str, Tensor], int]:
    """The tensors with the head's rows in the order of ``classes``, and how many classes are known by name."""
    places = {_SYNONYMS.get(name, name): place for place, name in enumerate(before)}
    common = [_SYNONYMS.get(name, name) for name in classes]
    here = [place for place, name in enumerate(common) if name in places]
    there = [places[common[place]] for place in here]
    matched = {}
    for name, tensor in stored.items():
        if not name.startswith("head.") or len(before) not in tensor.shape:
            matched[name] = tensor
        elif name in own and len(tensor) == len(before) and own[name].shape == (len(classes), *tensor.shape[1:]):
            matched[name] = own[name].clone()
            matched[name][here] = tensor[there].to(own[name])
    return matched, len(here)
