"""Datasets, one file each. A new dataset needs one line here; then its name is enough."""

from mlcl.data.base import MultiLabelDataModule as MultiLabelDataModule
from mlcl.data.coco import COCO2014 as COCO2014
from mlcl.data.coco_json import COCOJSON as COCOJSON
from mlcl.data.csv_file import CSVDataset as CSVDataset
from mlcl.data.dataset import ImageDataset as ImageDataset
from mlcl.data.dataset import Samples as Samples
from mlcl.data.demo import Demo as Demo
from mlcl.data.lvis import LVIS as LVIS
from mlcl.data.nuswide import NUSWIDE as NUSWIDE
from mlcl.data.open_images import OpenImages as OpenImages
from mlcl.data.streamed import Streamed as Streamed
from mlcl.data.vg500 import VG500 as VG500
from mlcl.data.voc import VOC2007 as VOC2007
from mlcl.data.voc import VOC2012 as VOC2012

_known = [value for value in list(globals().values()) if isinstance(value, type)]
DATASETS: dict[str, type] = {
    c.__name__: c for c in _known if issubclass(c, MultiLabelDataModule) and c is not MultiLabelDataModule
}
