"""Datasets, one file each. A new file here is found by itself: ``--data MyDataset``."""

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.dataset import ImageDataset, Samples
from mlcl.system.discovery import import_all, public_classes

DATASETS: dict[str, type] = public_classes(import_all(__name__, list(__path__)), MultiLabelDataModule)
globals().update(DATASETS)

__all__ = ["DATASETS", "ImageDataset", "MultiLabelDataModule", "Samples"]
__all__ += [*DATASETS]
