"""Every class of a user's reach is imported by name in its package, where an IDE and a type checker find it."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest
from support.running import REPOSITORY

import mlcl.data
import mlcl.heads
import mlcl.losses
import mlcl.optim
from mlcl.optim import Schedule

LISTS = [
    (mlcl.heads, mlcl.heads.Head, "HEADS"),
    (mlcl.losses, mlcl.losses.ClassificationLoss, "CLASSIFICATION_LOSSES"),
    (mlcl.losses, mlcl.losses.EmbeddingLoss, "EMBEDDING_LOSSES"),
    (mlcl.data, mlcl.data.MultiLabelDataModule, "DATASETS"),
]


def missing(package: ModuleType, base: type, listed: dict[str, type]) -> list[str]:
    """The import that the package's list lacks, for each public class of the package's files that is not listed."""
    lines = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            public = not name.startswith("_") and not info.name.startswith("_")
            if public and kind.__module__ == module.__name__ and issubclass(kind, base) and kind is not base:
                if listed.get(name) is not kind or getattr(package, name, None) is not kind:
                    lines.append(f"from {module.__name__} import {name} as {name}")
    return lines


@pytest.mark.parametrize(("package", "base", "name"), LISTS, ids=[name for *_, name in LISTS])
def test_every_class_is_imported_and_listed(package, base, name):
    lines = missing(package, base, getattr(package, name))
    where = f"{package.__name__.replace('.', '/')}/{'datasets' if package is mlcl.data else '__init__'}.py"
    assert not lines, f"add to {where}:\n" + "\n".join(lines)


def test_a_class_that_is_not_listed_is_named():
    few = {name: kind for name, kind in mlcl.heads.HEADS.items() if name != "CSRA"}
    assert missing(mlcl.heads, mlcl.heads.Head, few) == ["from mlcl.heads.csra import CSRA as CSRA"]


def test_every_schedule_is_listed():
    kinds = {kind for _, kind in inspect.getmembers(mlcl.optim, inspect.isclass) if issubclass(kind, Schedule)}
    assert set(mlcl.optim.SCHEDULES.values()) == kinds - {Schedule}


USER = """
from mlcl import load
from mlcl.data import COCO2014, MultiLabelDataModule
from mlcl.heads import Head, SemanticAttention
from mlcl.losses import EmbeddingLoss, LabelContrastiveLoss

head: Head = SemanticAttention(dim=64)
loss: EmbeddingLoss = LabelContrastiveLoss(temperature=0.1)
data: MultiLabelDataModule = COCO2014(root="data")
classes: list[str] = list(load("run").classes)
"""
# Torch and the rest count as untyped: to read them takes a minute, and the names here are ours.
CONFIG = """
[mypy]
strict = true
[mypy-mlcl.*]
follow_imports = silent
[mypy-torch.*,torchvision.*,torchmetrics.*,lightning.*,timm.*,numpy.*,PIL.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_a_users_file_is_clean_under_mypy_strict(tmp_path):
    """And a mistake in it is found: the names have their types."""
    (tmp_path / "mypy.ini").write_text(CONFIG)
    (tmp_path / "right.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(USER + "LabelContrastiveLoss(temprature=0.1)\nload(1)\n")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", os.devnull, "right.py", "wrong.py"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(REPOSITORY)},
    )  # fmt: skip
    errors = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 2 and all(line.startswith("wrong.py") for line in errors), checked.stdout + checked.stderr
    assert "temprature" in errors[0] and (REPOSITORY / "mlcl" / "py.typed").is_file()
