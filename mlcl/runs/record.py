"""What a checkpoint says of itself: our own plain record, in place of ``save_hyperparameters``.

It lies under the key ``mlcl`` and holds text, numbers and lists only, so that ``weights_only=True`` reads it.
"""

import inspect
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from mlcl.errors import MlclError

KEY = "mlcl"
FORMAT = 1
# What a test, a prediction or an export needs of the model and the trainer. The rest is training's (losses,
# optimizer), or belongs to the machine that trained (devices, strategy, callbacks, loggers).
_MODEL_KEYS = ("network", "threshold", "temperature", "interpolation", "cf1")
_TRAINER_KEYS = ("precision",)
_DATA_WITHOUT = ("cache", "cache_dir", "augment_on")  # how the training was made fast, on its machine
_TRUSTED = ("mlcl.", "torch.")
# Loggers that a continued run may name beside those, with these settings only: others name a server, an account or a
# place outside the run's, to which the logger would send what is logged, and the user's key with it.
_LOGGERS = {
    "lightning.pytorch.loggers.WandbLogger": (
        *("save_dir", "name", "version", "id", "offline", "project", "group", "tags", "notes", "job_type"),
        *("log_model", "prefix", "checkpoint_name", "add_file_policy"),
    ),
    "lightning.pytorch.loggers.TensorBoardLogger": (
        *("save_dir", "name", "version", "sub_dir", "prefix", "log_graph", "default_hp_metric"),
        *("comment", "filename_suffix", "max_queue", "flush_secs", "purge_step"),
    ),
}
# jsonargparse takes "module.Class" as plain text too, wherever a class may stand. These keys hold names and paths.
_TEXT_KEYS = ("backbone", "weights", "root", "csv", "val_csv", "test_csv", "name", "classes", "init_from", "version")
# VOC's name, COCO's name
_SYNONYMS = {
    **{"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle"},
    **{"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"},
}
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def make(config: dict[str, Any] | None, datamodule: Any) -> dict[str, Any]:
    """The record of a run.

    Args:
        config: the parsed command line, class paths and arguments; None for a model built in Python.
        datamodule: what it trains on; its classes and an absolute root go in.
    """
    record: dict[str, Any] = {"format": FORMAT, "classes": list(getattr(datamodule, "classes", ()))}
    if config is not None:
        config = {**config, "data": _portable(config["data"], datamodule)}
        record["config"] = yaml.safe_dump(config, sort_keys=False)
    return record


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running any code from it.

    Raises:
        MlclError: if there is no such file, it is no checkpoint, not one of ours, or holds weights that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise MlclError(f"{path} is a folder, no checkpoint" if path.is_dir() else f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0] if "Unsupported" not in str(error) else "it holds Python objects"
        raise MlclError(f"{path} is refused: only tensors and plain values are read ({reason})") from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip().splitlines() or ["empty"])[0]
        reason = "torch.save did not write it" if re.search("mmap|hasRecord", reason) else reason.split(". ")[0]
        best = path.with_name("best.ckpt")
        other = f"; {best} lies beside it" if best.is_file() and best != path else ""
        raise MlclError(f"{path} is no checkpoint, or damaged: {reason}{other}") from None
    parts = (KEY, "state_dict")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in parts):
        raise MlclError(f"{path} is not a checkpoint of mlcl (plain backbone weights go to model.network.weights)")
    if not isinstance(checkpoint[KEY].get("format"), int) or checkpoint[KEY]["format"] > FORMAT:
        raise MlclError(f"{path} was written by a newer mlcl; update this one")
    for name, tensor in checkpoint["state_dict"].items():  # a training saves none such: see callbacks.Finite
        numbers = isinstance(tensor, Tensor) and tensor.is_floating_point()
        if str(name).startswith("network.") and numbers and not tensor.isfinite().all():
            raise MlclError(
                f"{path}: {name} is not finite (a diverged training?), so that nothing can be computed with it; give "
                "an earlier checkpoint, or train again with a lower --model.optimizer.lr"
            )
    return checkpoint


def config_of(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The whole configuration in the record.

    Args:
        checkpoint: from :func:`load`.
        path: of the file, for the message.

    Raises:
        MlclError: for a model built in Python.
    """
    if "config" not in checkpoint[KEY]:
        raise MlclError(
            f"{path} holds a model that was built in Python, not by the command line: make the same one in Python and "
            "load its state_dict"
        )
    config: dict[str, Any] = yaml.safe_load(checkpoint[KEY]["config"])
    return config


def for_evaluation(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that validate, test and later uses take over, weights coming from the checkpoint."""
    model = {key: config["model"][key] for key in _MODEL_KEYS if key in config["model"]}
    arguments = {**model["network"]["init_args"], "pretrained": False, "weights": None}
    model["network"] = {**model["network"], "init_args": arguments}
    trainer = {key: config["trainer"][key] for key in _TRAINER_KEYS if key in config["trainer"]}
    kept: dict[str, Any] = {key: config[key] for key in ("seed_everything", "name", "report") if key in config}
    settings = config["data"].get("init_args", {})
    if settings.keys() >= set(_DATA_WITHOUT):  # else a dataset of the user's, which may mean something else by them
        settings = {key: value for key, value in settings.items() if key not in _DATA_WITHOUT}
    return {**kept, "data": {**config["data"], "init_args": settings}, "model": model, "trainer": trainer}


def check_classes(config: Any, path: str | Path, trusted: tuple[str, ...] = ()) -> None:
    """Refuse a configuration from a checkpoint that names classes of other modules: importing them runs their code.

    Raises:
        MlclError: naming the class and the flag that allows it.
    """
    for key, name in _possible_classes(config, ""):
        if not name.startswith((*_TRUSTED, *(f"{module}." for module in trusted))):
            raise MlclError(
                f"{path} names the class {name} ({key}), from a module that is neither mlcl nor torch; if you trust "
                f"it, add --import {name.rpartition('.')[0] or name}"
            )


def _possible_classes(config: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text that could be read as a class: under ``class_path``, or dotted where plain text is not expected."""
    if isinstance(config, dict):
        for name, value in config.items():
            if not (name == "class_path" and key == "logger" and _is_plain_logger(config)):
                yield from _possible_classes(value, str(name))
    elif isinstance(config, list):
        for value in config:
            yield from _possible_classes(value, key)
    elif isinstance(config, str) and (key == "class_path" or (key not in _TEXT_KEYS and _DOTTED.fullmatch(config))):
        yield key, config


def _is_plain_logger(config: dict[str, Any]) -> bool:
    """Whether it can do no more than log into this run's place."""
    settings = config.get("init_args") or {}
    allowed = _LOGGERS.get(str(config["class_path"]))
    if allowed is None or set(config) - {"class_path", "init_args"} or not isinstance(settings, dict):
        return False
    given = {name: value for name, value in settings.items() if value is not None}
    places = [Path(str(given[name])) for name in ("save_dir", "name", "version", "sub_dir") if name in given]
    inside = not any(place.is_absolute() or ".." in place.parts for place in places)
    return inside and given.keys() <= set(allowed)


def load_network(network: nn.Module, path: str | Path, classes: list[str] | None = None) -> str:
    """Start from another run's network: load every tensor of the same name and shape.

    Where the other run had other classes, or another order, what the head knows of a class is taken over by its name
    (COCO's and VOC's names for the same thing count as one).

    Args:
        network: of this run.
        path: checkpoint of the other one.
        classes: of this run; None takes the rows as they are.

    Returns:
        One line that says what was loaded and what was not.

    Raises:
        MlclError: if nothing fits.
    """
    checkpoint = load(path)
    stored = {
        name.removeprefix("network."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    own, before, named = network.state_dict(), checkpoint[KEY].get("classes", []), ""
    if classes and before and classes != before:
        pairs = _same_classes(before, classes)
        stored = {name: _rows_by_name(name, tensor, own, before, classes, pairs) for name, tensor in stored.items()}
        named = f"; other classes, {len(pairs)} of {len(classes)} known by name"
    fitting = {name: tensor for name, tensor in stored.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise MlclError(f"{path}: none of its {len(stored)} tensors fits this network (model.init_from)")
    network.load_state_dict(fitting, strict=False)
    left = [name for name in own if name not in fitting]
    kept = f"; as initialised: {', '.join(left[:4])}{f' and {len(left) - 4} more' * (len(left) > 4)}" if left else ""
    unused = len(stored) - len(fitting)
    return f"init_from {path}: {len(fitting)} of {len(own)} tensors loaded{kept}; {unused} of the file not used{named}"


def _same_classes(before: list[str], classes: list[str]) -> list[tuple[int, int]]:
    """Positions (there, here) of the classes that both runs know."""
    places = {_SYNONYMS.get(name, name): place for place, name in enumerate(before)}
    here = [(places.get(_SYNONYMS.get(name, name)), place) for place, name in enumerate(classes)]
    return [(there, place) for there, place in here if there is not None]


def _rows_by_name(
    name: str,
    tensor: Tensor,
    own: dict[str, Tensor],
    before: list[str],
    classes: list[str],
    pairs: list[tuple[int, int]],
) -> Tensor:
    """A head's tensor with its rows sorted by this run's classes; one that knows classes otherwise fits nothing."""
    if not name.startswith("head.") or len(before) not in tensor.shape:
        return tensor
    if name not in own or tensor.shape[0] != len(before) or own[name].shape != (len(classes), *tensor.shape[1:]):
        return tensor.new_empty(0)
    rows = own[name].clone()
    for there, here in pairs:
        rows[here] = tensor[there]
    return rows


def differences(stored: dict[str, Any], final: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Key, value of the checkpoint, value now, where both are given and differ; paths are compared as places."""
    before, after = flat(stored), flat(final)
    skipped = (
        "name",
        "ckpt_path",
        "import",
        "test_after_fit",
        "report",
        "log_images",
        "data.interpolation",
        "model.init_from",
    )
    found = []
    for key in before:
        machine = key.startswith("trainer.") and key != "trainer.precision"
        if key not in after or key in skipped or machine or before[key] == after[key]:
            continue
        if key == "data.root" and Path(before[key]) == Path(str(after[key])).resolve():
            continue
        if key.startswith("model.network.") and key.endswith(("pretrained", "weights")):
            continue
        found.append((key, before[key], after[key]))
    return found


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as flat flags: without init_args, the class path under the name of its place."""
    flags: dict[str, Any] = {}
    for key, value in config.items():
        place = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}".lstrip(".")
        flags |= flat(value, place) if isinstance(value, dict) else {place: value}
    return flags


def _portable(data: dict[str, Any], datamodule: Any) -> dict[str, Any]:
    """What the dataset says of itself, as far as its constructor takes it (a user's own may not)."""
    given = data.get("init_args", {})
    taken = {k: v for k, v in datamodule.portable_arguments().items() if k in given or k in _arguments(datamodule)}
    return {**data, "init_args": {**given, **taken}}


def _arguments(datamodule: Any) -> set[str]:
    """The constructor's arguments, through ``**settings`` up to the base class."""
    names: set[str] = set()
    for kind in type(datamodule).__mro__:
        parameters = inspect.signature(vars(kind).get("__init__", object.__init__)).parameters
        names |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names
