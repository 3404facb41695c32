"""Which data and which code a run used."""

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcl.runs.folders import starts

_TIMEOUT = 5.0  # seconds for git
_DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")  # the commit, "-dirty" with changes


def fingerprint(paths: Sequence[Path], targets: NDArray[Any], root: Path) -> str:
    """A hash over names below ``root``, sizes and targets (N, K) of a split's N images, in order; no image is read."""
    digest = hashlib.blake2b(repr((targets.shape, str(targets.dtype))).encode(), digest_size=16)
    prefix = os.path.join(os.path.abspath(root), "")
    for path in paths:
        try:
            size = os.stat(path).st_size
        except OSError:  # reading the image reports it
            size = -1
        digest.update(f"{os.path.abspath(path).removeprefix(prefix)}\0{size}\n".encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(targets).tobytes())
    return digest.hexdigest()


def code_state() -> dict[str, Any]:
    """Commit and whether there are changes, of the checkouts of the package and of the current folder; never fails."""
    package = Path(__file__).parent
    tracked = _git(package, "ls-files", "--error-unmatch", Path(__file__).name)  # else of another project around it
    found = {"folder": _git(Path.cwd(), *_DESCRIBE), "package": tracked and _git(package, *_DESCRIBE)}
    return {
        name: {"commit": state.removesuffix("-dirty"), "dirty": state.endswith("-dirty")}
        for name, state in found.items()
        if state is not None
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git; None where there is no git, or no commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def recorded_data(run: Path) -> dict[str, str]:
    """The fingerprints by split that the last start of a run recorded; empty where there are none."""
    known = [start["data"] for start in starts(run) if isinstance(start.get("data"), dict)]
    return known[-1] if known else {}
