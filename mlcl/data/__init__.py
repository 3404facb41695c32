"""Datasets, one file each. A new dataset is imported and listed here: then it is known by its name."""

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.coco import COCO2014
from mlcl.data.csv_file import CSVDataset
from mlcl.data.dataset import ImageDataset, Samples
from mlcl.data.demo import Demo
from mlcl.data.voc import VOC2007, VOC2012

DATASETS: dict[str, type] = {data.__name__: data for data in (COCO2014, CSVDataset, Demo, VOC2007, VOC2012)}

__all__ = [
    "COCO2014",
    "DATASETS",
    "VOC2007",
    "VOC2012",
    "CSVDataset",
    "Demo",
    "ImageDataset",
    "MultiLabelDataModule",
    "Samples",
]
