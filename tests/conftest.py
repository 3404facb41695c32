"""Shared fixtures: a tiny demo dataset, the command line in this process and in others, gloo groups."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported: with a busy core, two spinning OpenMP threads make a tiny step 200 times slower.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["WANDB_MODE"] = "offline"
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # lightning 2.6.6 calls a deprecated method

import pytest
from support.once import once
from support.running import Outcome, demo_flags

from mlcl.__main__ import main

# Torch is imported by the tests, not here: the process that hands them to the workers needs none of it.
pytest_plugins = ("support.report_run", "support.packs")  # the fixtures of the report's tests, and of packs
gc.disable()  # until everything is imported: as in mlcl.cli.verbs.importing
collect_ignore = ["support/beside/elsewhere_numbers.py"]  # a script for packages that are not here
_ours: set[str] = set()  # names of modules that no test has written

# Files that take half a minute or more come first, so that two workers end together.
_LONG = (
    *("test_readme", "test_interrupted", "test_configs", "test_distributed", "test_predict_parts", "test_export"),
    *("test_module", "test_check", "test_checkpoint", "test_nodes", "test_finite", "test_streams", "test_wandb"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG))


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Caches go to a temporary folder; what one test leaves behind (a seed, imported files) does not reach the next."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    from torch.utils.data import BatchSampler, DataLoader

    path, base = list(sys.path), str(tmp_path_factory.getbasetemp())
    loaders = {kind: dict(vars(kind)) for kind in (DataLoader, BatchSampler)}
    yield
    for kind, before in loaders.items():  # where a dataset raises, Lightning (2.6.6) leaves its own constructor there
        for name in [name for name, value in vars(kind).items() if before.get(name) is not value]:
            setattr(kind, name, before[name]) if name in before else delattr(kind, name)
    for name in sys.modules.keys() - _ours:  # the user's own files, of which the next test has others
        if str(getattr(sys.modules[name], "__file__", None)).startswith(base):
            del sys.modules[name]
        else:
            _ours.add(name)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "MLCL_RUN_FOLDER"):
        os.environ.pop(name, None)
    sys.path[:] = path


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated scenes: 80 images to train, 25 to test, 64 pixels; in one place, which checkpoints name."""

    def make(folder: Path) -> None:
        from mlcl.data.demo import write_scenes

        write_scenes(folder / "demo", train=80, val=25, size=64)

    return once(tmp_path_factory, "scenes", make, copied=False) / "demo"


@pytest.fixture
def demo(demo_root: Path) -> list[str]:
    """Flags that make the demo config small enough for a test."""
    return demo_flags(demo_root)


@pytest.fixture(scope="session")
def trained(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: two epochs of the demo config on the small scenes, a quarter held out."""

    def make(folder: Path) -> None:
        flags = [*demo_flags(demo_root), "--data.val_fraction", "0.25", "--model.optimizer.lr", "0.01"]
        with contextlib.chdir(folder):
            assert main(["fit", *flags]) == 0

    return once(tmp_path_factory, "trained", make) / "runs" / "demo" / "version_0"


@pytest.fixture
def mlcl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        status = main([*map(str, arguments)])
        return Outcome(status, *capfd.readouterr())

    return run
