"""What a run was made from: configuration, command, machine, code and data."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlcl import __version__
from mlcl.runs.folders import CONFIG, ENVIRONMENT
from mlcl.system import yaml_text
from mlcl.system.files import write_whole

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "jsonargparse", "numpy", "pillow")
_AT_ONCE = 1 << 16  # images
_TIMEOUT = 5.0  # seconds for git
_DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")  # the commit, "-dirty" with changes


def describe(folder: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml``, and an entry for this start in ``environment.json``: command, versions, machine."""
    write_whole(folder / CONFIG, yaml_text.dump(config))
    write_whole(folder / ENVIRONMENT, json.dumps([*starts(folder), _environment()], indent=2))


def note_environment(folder: Path, **notes: Any) -> None:
    """Add to the last entry of ``environment.json`` what was not known at the start."""
    if entries := starts(folder):
        entries[-1] |= notes
        write_whole(folder / ENVIRONMENT, json.dumps(entries, indent=2))


def starts(run: Path) -> list[dict[str, Any]]:
    """The entries of ``environment.json``; none where it is missing or damaged, since nothing depends on it."""
    try:
        entries = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


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
    for start in range(0, len(targets), _AT_ONCE):
        digest.update(np.ascontiguousarray(targets[start : start + _AT_ONCE]).data)
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


def _environment() -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {"mlcl": __version__} | {package: version(package) for package in _PACKAGES},
        "git": code_state(),
    }
