"""One fixed vector per class, such as its word vector, from a file."""

import os
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from mlcl.errors import MlclError


def read_vectors(path: str, name: str) -> Tensor:
    """The rows of a ``.npy`` file, each scaled to the length sqrt(d): its components then have a mean square of 1.

    The scale is ours: the lengths of word vectors differ with a word's frequency and between text encoders.

    Args:
        path: of an array (K, d) of finite real numbers; ``~/`` is the home folder. Pickled objects are never read.
        name: of the setting, for messages.

    Returns:
        (K, d) float32.

    Raises:
        MlclError: if there is no such file or array, or a row has no direction.
    """
    path = os.path.expanduser(path)
    try:
        vectors = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise MlclError(f"{name} {path}: no such file") from None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise MlclError(f"{name} {path} is no .npy file of numbers: {reason[:200]}") from None
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind not in "fiu":
        kind = f"of {vectors.dtype}" if isinstance(vectors, np.ndarray) else "several in one file (.npz)"
        raise MlclError(f"{name} {path}: expected an array of real numbers, not {kind}")
    if vectors.ndim != 2 or not vectors.size:
        raise MlclError(f"{name} {path}: expected an array (classes, d), got {(*vectors.shape,)}")
    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(1, keepdims=True)
    for wrong, what in ((~np.isfinite(largest), "is not finite"), (largest == 0, "is zero and has no direction")):
        if wrong.any():
            raise MlclError(f"{name} {path}: row {int(wrong[:, 0].argmax())} (from 0) {what}")
    unit = wide / largest  # else the squares of very large or small numbers could not be stored
    unit *= np.sqrt(wide.shape[1]) / np.linalg.norm(unit, axis=1, keepdims=True)
    return torch.from_numpy(unit.astype(np.float32))
