"""Reading pictures and labels; ``datasets.py`` lists the classes, which are imported from here.

They are loaded on first use: they bring Lightning, and a prediction needs no dataset.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcl.data.datasets import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """A class of ``datasets.py``, or their list ``DATASETS``."""
    if name[:1].isupper():  # else it is one of the files here
        from importlib import import_module

        datasets = import_module("mlcl.data.datasets")
        if hasattr(datasets, name):
            return getattr(datasets, name)
    raise AttributeError(f"module 'mlcl.data' has no attribute {name!r}")
