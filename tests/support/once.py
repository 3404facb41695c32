"""What a fixture makes for the whole suite, made by one worker of pytest-xdist; the others take a copy."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object], copied: bool = True) -> Path:
    """The folder that ``make`` fills; a worker's own copy of it, which tests may write to, or else the one."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once_{name}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "content").mkdir(parents=True)
            make(folder / "content")
            (folder / "made").touch()
    if not copied:
        return folder / "content"
    own = factory.mktemp(name)
    shutil.copytree(folder / "content", own, symlinks=True, dirs_exist_ok=True)
    return own
