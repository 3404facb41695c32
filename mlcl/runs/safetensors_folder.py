"""A folder of weights for other programs: the tensors as safetensors, what they mean as JSON beside them."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlcl.errors import MlclError
from mlcl.runs.folders import ABOUT, WEIGHTS

ENDING = ".safetensors"


def write(folder: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a network's state dict and JSON values, the checkpoint's record among them, into a folder that is there.

    Every tensor gets memory of its own in the usual order: safetensors takes neither channels-last ones nor one tensor
    under two names.
    """
    text = json.dumps(about, indent=2, allow_nan=False, ensure_ascii=False)  # a NaN would be no JSON
    save_file({name: value.clone().contiguous() for name, value in state.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / ABOUT).write_text(text, encoding="utf-8")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The network's state dict from a weights file, and the record from the JSON beside it."""
    about = path.with_name(ABOUT)
    try:
        return load_file(path), json.loads(about.read_text(encoding="utf-8"))["record"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else (str(error).splitlines() or ["empty"])[0]
        raise MlclError(
            f"{path} with {about.name} is not what mlcl export writes, or damaged: {reason[:200]}"
        ) from None
