"""The published tables of the named datasets, told apart by their numbers of images."""

from typing import NamedTuple

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.streamed import Streamed


class Protocol(NamedTuple):
    """What a paper trains and tests on."""

    dataset: str  # the class that reads it
    train: int  # images
    test: int
    classes: int
    name: str
    users: str  # who reports on it


# Counts as in the files themselves (COCO, VOC, NUS-WIDE, SSGRL's lists) or in the code named last.
PROTOCOLS = (
    Protocol("COCO2014", 82783, 40504, 80, 'COCO 2014 "official"', "Query2Label, SADCL"),
    Protocol("COCO2014", 82081, 40137, 80, 'COCO 2014 "images with labels"', "ML-GCN, ASL, MulCon"),
    Protocol("COCO2014", 118287, 5000, 80, 'COCO 2017 "official"', "SADCL's code"),
    Protocol("VOC2007", 5011, 4952, 20, 'VOC 2007 "trainval and test"', "ML-GCN, CSRA, SADCL"),
    Protocol("VOC2012", 5717, 5823, 20, 'VOC 2012 "train and val"', "the labels of its test images are not public"),
    Protocol("NUSWIDE", 161789, 107859, 81, 'NUS-WIDE "official"', "the dataset's own split"),
    Protocol("NUSWIDE", 125449, 83898, 81, 'NUS-WIDE "labelled"', "SADCL, Query2Label"),
    Protocol("NUSWIDE", 119103, 50720, 81, 'NUS-WIDE "csv"', "ASL's file"),
    Protocol("VG500", 82904, 10000, 500, 'VG500 "SSGRL\'s lists"', "SSGRL, Query2Label, SADCL"),
    Protocol("VG500", 98249, 10000, 500, 'VG500 "random split"', "another choice of images under the same name"),
)


def protocol_line(data: MultiLabelDataModule) -> str | None:
    """Which published table the splits of a dataset fit, by images and classes; None for a dataset without one.

    Images held out of the training images for validation count as training images. A pack knows what it was made of.
    """
    if isinstance(data, Streamed):
        return data.pack.manifest["protocol"] or None
    kind = type(data).__name__
    known = [one for one in PROTOCOLS if one.dataset == kind]
    train, val, test = (data.splits.get(split) for split in ("train", "val", "test"))
    if not known or train is None or test is None:
        return None
    if getattr(data, "min_area", 0) or getattr(data, "crowd", "keep") != "keep":
        return f"protocol: data.min_area or data.crowd leave objects out: no published table of {kind} has these labels"
    count = len(train.paths) + (len(val.paths) if val is not None and val is not test else 0)
    found = count, len(test.paths), data.num_classes
    for one in known:
        if found == (one.train, one.test, one.classes):
            counts = f"{one.train:,} train and {one.test:,} test images, {one.classes} classes"
            return f"protocol: {counts}: {one.name} ({one.users})"
    tables = "; ".join(f"{one.train:,} and {one.test:,}, {one.name}" for one in known)
    counts = f"{count:,} train and {found[1]:,} test images, {found[2]} classes"
    return f"protocol: {counts}: these counts fit no published table of {kind} (known: {tables})"
