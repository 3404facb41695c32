from pathlib import Path

import numpy as np
import pytest

from mlcl.data import DATASETS
from mlcl.data.coco import COCO2014
from mlcl.data.csv_file import CSVDataset
from mlcl.data.dataset import Samples
from mlcl.data.nuswide import NUSWIDE
from mlcl.data.protocols import PROTOCOLS, protocol_line
from mlcl.data.vg500 import VG500


def with_counts(data, **counts):
    data.splits = {split: Samples([Path()] * n, np.zeros((n, 1), dtype=np.int8)) for split, n in counts.items()}
    return data


@pytest.mark.parametrize(
    ("data", "train", "test", "line"),
    [
        (NUSWIDE(), 125449, 83898, 'protocol: 125,449 train and 83,898 test images, 81 classes: NUS-WIDE "labelled"'),
        (NUSWIDE(), 119103, 50720, 'protocol: 119,103 train and 50,720 test images, 81 classes: NUS-WIDE "csv"'),
        (COCO2014(), 82783, 40504, 'protocol: 82,783 train and 40,504 test images, 80 classes: COCO 2014 "official"'),
        (VG500(), 82904, 10000, 'protocol: 82,904 train and 10,000 test images, 500 classes: VG500 "SSGRL\'s lists"'),
    ],
)
def test_counts_that_are_published(data, train, test, line):
    with_counts(data, train=train, test=test)
    data.splits["val"] = data.splits["test"]
    assert protocol_line(data).startswith(line + " (")
    with_counts(data, train=train - 100, val=100, test=test)  # held out of train
    assert protocol_line(data).startswith(line + " (")


@pytest.mark.parametrize(("train", "test"), [(125448, 83898), (125449, 50720), (82081, 40137)])
def test_counts_that_are_not(train, test):
    line = protocol_line(with_counts(NUSWIDE(), train=train, test=test))
    assert f"{train:,} train and {test:,} test images" in line
    assert "these counts fit no published table of NUSWIDE (known: 161,789 and 107,859, NUS-WIDE" in line


def test_other_classes_are_another_table():
    data = with_counts(COCO2014(), train=82783, test=40504)
    data.classes = data.classes[:-1]
    assert "79 classes: these counts fit no published table" in protocol_line(data)


def test_a_table_of_ones_own_has_no_protocol(tmp_path):
    (tmp_path / "labels.csv").write_text("image,cat\n1.jpg,1\n")
    data = with_counts(CSVDataset(root=str(tmp_path)), train=5011, test=4952)
    assert protocol_line(data) is None
    assert protocol_line(with_counts(NUSWIDE(), test=107859)) is None  # nothing to train on


def test_every_protocol_is_told_apart():
    assert len({one[:4] for one in PROTOCOLS}) == len(PROTOCOLS)
    assert {one.dataset for one in PROTOCOLS} - {"COCO2017"} <= set(DATASETS)
