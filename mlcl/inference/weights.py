"""``mlcl export --format safetensors``: the weights, the checkpoint's record and a model card in one folder."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlcl.errors import MlclError
from mlcl.inference import model_card
from mlcl.inference.export import metadata
from mlcl.inference.model import Model, load
from mlcl.runs import folders, provenance, record, results, safetensors_folder
from mlcl.runs.results import Results
from mlcl.system import yaml_text
from mlcl.system.console import say

_NO_PATHS = ("classes", "label_separator")
_OF_START = ("started", "python", "versions", "git", "data")  # not the command and the folder: they name people


def export(checkpoint: Path, output: Path, imports: tuple[str, ...] = ()) -> None:
    """Write a new folder that every command reads as it reads the checkpoint, and other programs with safetensors.

    The weights are those that a test uses: the averaged ones if there was an EMA. They are read back and compared
    before the folder gets its name.

    Raises:
        MlclError: if the checkpoint cannot be used or the folder not be written.
    """
    model = load(checkpoint, "cpu", imports)
    about = _about(model)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        safetensors_folder.write(partial, model.network.state_dict(), about)
        (partial / "README.md").write_text(model_card.text(output.name, model, about), encoding="utf-8")
        _check(model, load(partial, "cpu", imports))
        partial.replace(output)
    except OSError as error:
        raise MlclError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = (output / folders.WEIGHTS).stat().st_size
    say(f"{output}: {size / 1e6:.1f} MB, {len(model.network.state_dict())} tensors, read back the same")


def _about(model: Model) -> dict[str, Any]:
    """What other programs need, and the record: JSON values."""
    content, network = record.load(model.source), model.network
    config = _without_places(record.config_of(content, model.source))
    backbone, options = network.made_of
    about = metadata(model) | {
        "thresholds": model.thresholds.tolist(),
        "output": "logits: float32 (batch, classes); a probability is sigmoid(logit / temperature), and a label is "
        "predicted from its threshold on",
        "temperature": model.temperature,
        "mean": network.mean.flatten().tolist(),  # of pixels in [0, 1]
        "std": network.std.flatten().tolist(),
        "backbone": backbone,
        "backbone_kwargs": _without_places(options),
        "feature_norm": isinstance(network.norm, torch.nn.LayerNorm),
        "head": config["model"]["network"]["init_args"]["head"],
        "dataset": str(config["data"]["class_path"]).rpartition(".")[2],
        "training": _training(model.source),
        "test": _own_test(model),
        "record": content[record.KEY] | {"config": yaml_text.dump(config)},
    }
    try:
        json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MlclError(f"{model.source}: its record cannot be written as JSON: {error}") from None
    return about


def _without_places(config: Any) -> Any:
    """The configuration with the last part of each absolute path: the rest is about a machine and a person.

    Names of classes and separators may begin with a slash, too. The file that timm took weights from is left out.
    """
    if isinstance(config, dict):
        found = {key: value if key in _NO_PATHS else _without_places(value) for key, value in config.items()}
        if isinstance(overlay := found.get("pretrained_cfg_overlay"), dict):
            overlay.pop("file", None)
        return found
    if isinstance(config, list):
        return [_without_places(value) for value in config]
    return Path(config).name if isinstance(config, str) and os.path.isabs(config) else config


def _training(checkpoint: Path) -> dict[str, Any]:
    run = folders.run_of(checkpoint)
    starts = provenance.starts(run) if run else []
    return {name: starts[-1][name] for name in _OF_START if name in starts[-1]} if starts else {}


def _own_test(model: Model) -> dict[str, Any] | None:
    """``metrics.json`` of the newest test of this very checkpoint in its run; None without one.

    It has to have decided as the checkpoint does, on the images and labels of the run's own test, if there was one.
    """
    if (run := folders.run_of(model.source)) is None:
        return None
    first, start = _test(run), model.source.stat().st_mtime
    written = {
        path.parent: path.stat().st_mtime for path in (*run.glob("metrics.json"), *run.glob("test_*/metrics.json"))
    }
    for folder in sorted(written, key=written.__getitem__, reverse=True):
        if (test := _test(folder)) is None or written[folder] < start:
            continue
        name = Path(str(test.summary.get("checkpoint"))).name
        decides = test.temperature == model.temperature and np.array_equal(test.thresholds, model.thresholds.numpy())
        same = first is None or all(np.array_equal(getattr(test, a), getattr(first, a)) for a in ("images", "targets"))
        if name == model.source.name and decides and same:
            return {**test.summary, "checkpoint": name}
    return None


def _test(folder: Path) -> Results | None:
    """The results of a test there; damaged ones are as if they were not there."""
    try:
        return found if (found := results.read(folder)).split == "test" else None
    except MlclError:
        return None


def _check(model: Model, again: Model) -> None:
    """Refuse a folder from which another model would be read."""
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    same = ours.keys() == theirs.keys() and all(
        theirs[name].dtype == value.dtype and torch.equal(theirs[name], value) for name, value in ours.items()
    )
    decides = model.temperature == again.temperature and torch.equal(model.thresholds, again.thresholds)
    if not (same and decides and metadata(model) == metadata(again)):
        raise MlclError(f"{model.source}: its weights were read back differently: not written")
