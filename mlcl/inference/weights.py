"""``mlcl export --format safetensors``: the weights, the checkpoint's record and a model card in one folder."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlcl.errors import MlclError
from mlcl.inference import model_card
from mlcl.inference.export import metadata
from mlcl.inference.model import Model, load
from mlcl.runs import folders, provenance, record, safetensors_folder
from mlcl.system import yaml_text
from mlcl.system.console import say

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

    Names of classes and separators may begin with a slash, too. A file that timm had taken weights from is left out.
    """
    if isinstance(config, dict):
        return {
            key: value if key == "classes" or key.endswith("_separator") else _without_places(value)
            for key, value in config.items()
            if not (key == "file" and isinstance(value, str))
        }
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
    checkpoint = model.source
    run = folders.run_of(checkpoint)
    found = [*run.glob("metrics.json"), *run.glob("test_*/metrics.json")] if run else []
    decides: dict[str, Any] = {"thresholds": model.thresholds.numpy(), "temperature": model.temperature}
    tested_on = _arrays(run / "scores.npz", "images", "targets") if run else {}
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            tested, newer = Path(summary["checkpoint"]), path.stat().st_mtime >= checkpoint.stat().st_mtime
            wanted = decides | tested_on
            seen = _arrays(path.with_name("scores.npz"), *wanted)
            same = all(name in seen and np.array_equal(seen[name], value) for name, value in wanted.items())
            if summary["split"] == "test" and tested.name == checkpoint.name and newer and same:
                return {**summary, "checkpoint": tested.name}
        except (OSError, ValueError, KeyError, TypeError):  # damaged: as if it were not there
            continue
    return None


def _arrays(scores: Path, *names: str) -> dict[str, Any]:
    """Arrays of a ``scores.npz``; none of a file that is not there or damaged."""
    try:
        with np.load(scores) as found:
            return {name: found[name] for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return {}


def _check(model: Model, again: Model) -> None:
    """Refuse a folder from which another model would be read."""
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    same = ours.keys() == theirs.keys() and all(
        theirs[name].dtype == value.dtype and torch.equal(theirs[name], value) for name, value in ours.items()
    )
    decides = model.temperature == again.temperature and torch.equal(model.thresholds, again.thresholds)
    if not (same and decides and metadata(model) == metadata(again)):
        raise MlclError(f"{model.source}: its weights were read back differently: not written")
