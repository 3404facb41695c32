"""The record in a checkpoint: configuration and classes, in place of ``save_hyperparameters``.

It is stored under the key ``mlcl`` as text, numbers and lists only, so that ``weights_only=True`` reads it.
"""

import inspect
import math
import os
import pickle
import re
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlcl.errors import MlclError
from mlcl.runs import safetensors_folder
from mlcl.system import yaml_text

KEY = "mlcl"
VECTORS = "head.query_vectors"  # in the state dict of a network whose queries come from a file
FORMAT = 2  # to be raised when a setting that changes the network gets a new default, see _as_then
# Needed to test, predict or export. The rest serves training (losses, optimizer) or the machine that trained (devices,
# strategy, callbacks, loggers).
_MODEL_KEYS = ("network", "threshold", "temperature", "interpolation", "cf1")
_TRAINER_KEYS = ("precision",)
_DATA_WITHOUT = ("cache", "cache_dir", "augment_on")  # settings for speed on the machine that trained
# Settings in which a run that goes on, or is tested, may differ without a word.
_OF_ONE_CALL = (
    *("name", "ckpt_path", "import", "test_after_fit", "report", "localise", "log_images"),
    *("data.interpolation", "model.init_from"),
)


def make(config: dict[str, Any] | None, datamodule: Any, planned_steps: int | None) -> dict[str, Any]:
    """The record of a run that is planned to take so many optimizer steps."""
    classes = list(getattr(datamodule, "classes", ()))
    record: dict[str, Any] = {"format": FORMAT, "classes": classes, "planned_steps": planned_steps}
    if config is not None:
        config = {**config, "data": _portable(config["data"], datamodule)}
        record["config"] = yaml_text.dump(config)
    return record


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or the folder of ``mlcl export --format safetensors``; no code in it is run."""
    path = Path(os.path.expanduser(path))
    is_folder = path.suffix == safetensors_folder.ENDING
    checkpoint = weights_only(*safetensors_folder.read(path)) if is_folder else read(path)
    parts = (KEY, "state_dict")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in parts):
        raise MlclError(
            f"{path} is not a checkpoint of mlcl (plain backbone weights go to model.network.weights, those of a "
            "paper's own code to mlcl convert)"
        )
    if not isinstance(checkpoint[KEY].get("format"), int) or checkpoint[KEY]["format"] > FORMAT:
        raise MlclError(f"{path} was written by a newer mlcl; update this one")
    check_finite({name: value for name, value in checkpoint["state_dict"].items() if _is_network(name)}, path)
    return checkpoint


def read(path: Path, numbers: bool = False) -> Any:
    """What ``torch.save`` wrote; with ``numbers``, any version of it, and NumPy's numbers in it. No code is run.

    Raises an MlclError for whatever is no such file, or holds other objects.
    """
    if not path.is_file():
        raise MlclError(f"{path} is a folder, no checkpoint" if path.is_dir() else f"{path}: no such checkpoint")
    try:
        with torch.serialization.safe_globals(_numbers() if numbers else []):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=not numbers)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0] if "Unsupported" not in str(error) else "it holds Python objects"
        raise MlclError(f"{path} is refused: only tensors and plain values are read ({reason})") from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip().splitlines() or ["empty"])[0]
        reason = "torch.save did not write it" if re.search("mmap|hasRecord", reason) else reason.split(". ")[0]
        best = path.with_name("best.ckpt")
        other = f"; {best} lies beside it" if best.is_file() and best != path else ""
        raise MlclError(f"{path} is no checkpoint, or damaged: {reason}{other}") from None


def _numbers() -> list[Any]:
    """What makes a number of NumPy (``best_mAP``) in a file of NumPy 1 and 2; it runs no code of the file."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = (np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType)
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def _is_network(name: Any) -> bool:
    return str(name).startswith("network.")


def check_finite(tensors: dict[str, Any], path: Path) -> None:
    """Raise MlclError for weights with a NaN or an infinity."""
    for name, tensor in tensors.items():
        numbers = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel() > 0
        # The extremes, which need no memory of their own: of a tensor with a NaN both are NaN.
        if numbers and not all(map(torch.isfinite, tensor.aminmax())):
            raise MlclError(
                f"{path}: {name} is not finite (a diverged training?); give an earlier checkpoint, or train again "
                "with a lower --model.optimizer.lr"
            )


def weights_only(network: dict[str, Tensor], entries: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of a network's state dict and a record, for every use but continuing a training."""
    state = {f"network.{name}": value for name, value in network.items()}
    # Lightning's version: it would convert an older one's checkpoint.
    return {"state_dict": state, KEY: entries, "pytorch-lightning_version": version("lightning")}


def config_of(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The whole configuration in the record."""
    if "config" not in checkpoint[KEY]:
        raise MlclError(
            f"{path} holds a model that was built in Python, not by the command line: make the same one in Python and "
            "load its state_dict"
        )
    config: dict[str, Any] = yaml_text.read(checkpoint[KEY]["config"], f"the record in {path}")
    try:
        _ = {**config["model"]["network"]["init_args"], **config["data"], **config["trainer"]}
    except (KeyError, TypeError) as error:
        raise MlclError(f"the record in {path} is no configuration") from error
    return _as_then(config, checkpoint[KEY]["format"])


def calibration_of(checkpoint: dict[str, Any], path: str | Path) -> tuple[dict[str, Any], float | None]:
    """How thresholds were fitted (empty if they were not), and the energy from which a picture counts as familiar."""
    calibration, energy = (checkpoint[KEY].get(name, {}) for name in ("calibration", "energy"))
    threshold = energy.get("threshold") if isinstance(energy, dict) else math.nan
    number = isinstance(threshold, float | None) and (threshold is None or math.isfinite(threshold))
    if not isinstance(calibration, dict) or not number:
        raise MlclError(f"the record in {path} holds no usable calibration; run mlcl calibrate again")
    return calibration, threshold


def _as_then(config: dict[str, Any], written: int) -> dict[str, Any]:
    """A configuration of that format with the settings that came later, at values that leave the network as it was."""
    network = config["model"]["network"]["init_args"]
    if written < 2:
        network.setdefault("feature_norm", False)
        head = network.get("head")
        if isinstance(head, dict) and re.fullmatch(r"(mlcl\..*\.)?SemanticAttention", str(head.get("class_path"))):
            head["init_args"] = {"average": 0.0, **head.get("init_args", {})}
    return config


def query_width(state: dict[str, Tensor]) -> int | None:
    """The width d of the vectors (K, d) in a state dict from which a head makes its queries, if it holds any."""
    vectors = state.get(f"network.{VECTORS}")
    return None if vectors is None else int(vectors.shape[-1])


def for_evaluation(config: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """The part of a configuration that every use but training needs; the rest comes from the checkpoint's state dict.

    Weights, and vectors for the queries, are not read again from the files that a training began with.
    """
    model = {key: config["model"][key] for key in _MODEL_KEYS if key in config["model"]}
    arguments = {**model["network"]["init_args"], "pretrained": False, "weights": None}
    head, width = arguments.get("head"), query_width(state)
    if width is not None and isinstance(head, dict):
        arguments["head"] = {**head, "init_args": {**head.get("init_args", {}), "queries": width}}
    model["network"] = {**model["network"], "init_args": arguments}
    trainer = {key: config["trainer"][key] for key in _TRAINER_KEYS if key in config["trainer"]}
    kept: dict[str, Any] = {key: config[key] for key in ("seed_everything", "name", "report", "tta") if key in config}
    settings = config["data"].get("init_args", {})
    if settings.keys() >= set(_DATA_WITHOUT):  # else a user's dataset, where these names may mean something else
        settings = {key: value for key, value in settings.items() if key not in (*_DATA_WITHOUT, "cache_gb")}
    return {**kept, "data": {**config["data"], "init_args": settings}, "model": model, "trainer": trainer}


def differences(stored: dict[str, Any], final: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Key, value in the checkpoint, value now, where both are given and differ."""
    before, after = flat(stored), flat(final)
    found = []
    for key in before:
        machine = key.startswith("trainer.") and key != "trainer.precision"
        if key not in after or key in _OF_ONE_CALL or machine or before[key] == after[key]:
            continue
        if key == "data.root" and Path(before[key]) == Path(str(after[key])).resolve():
            continue
        if key.startswith("model.network.") and key.endswith(("pretrained", "weights")):
            continue
        found.append((key, before[key], after[key]))
    return found


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by flag, as on the command line: without ``init_args`` and ``class_path``."""
    flags: dict[str, Any] = {}
    for key, value in config.items():
        place = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}".lstrip(".")
        flags |= flat(value, place) if isinstance(value, dict) else {place: value}
    return flags


def _portable(data: dict[str, Any], datamodule: Any) -> dict[str, Any]:
    """Settings of the dataset by which another machine finds it, as far as its constructor accepts them."""
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
