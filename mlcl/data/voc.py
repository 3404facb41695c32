"""PASCAL VOC 2007 and 2012, from the image-level flags of ``ImageSets/Main``."""

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torchvision.datasets.voc import DATASET_YEAR_DICT

from mlcl.data.base import MultiLabelDataModule, Split, one_of
from mlcl.data.dataset import Samples
from mlcl.data.download import fetch
from mlcl.data.file_names import below, checked, short
from mlcl.data.labels import from_voc
from mlcl.errors import MlclError

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor".split()
)
Difficult = Literal["ignore", "negative"]


class _VOC(MultiLabelDataModule):
    """Both years; ``root`` holds ``VOCdevkit/VOC20xx``, or is one of these two folders.

    Args:
        root: folder of the dataset.
        train_split: image set to train on: train, val or trainval.
        test_split: image set to test on.
        difficult: a class seen only as "difficult" is unknown (``ignore``) or absent (``negative``).
        train_difficult: the same for training, if it should differ. CSRA's protocol is ``negative`` here and ``ignore``
            for the test, that of Q2L and SADCL is ``negative`` for both.
        download: fetch the archives where the tree is missing.
        **settings: see :class:`MultiLabelDataModule`.
    """

    classes = VOC_CLASSES
    year: str
    downloads: ClassVar[dict[str, str]]  # torchvision's name of an archive -> an image set in it

    def __init__(
        self,
        root: str,
        train_split: str,
        test_split: str,
        difficult: Difficult = "ignore",
        train_difficult: Difficult | None = None,
        download: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(root=root, **settings)
        one_of("difficult", difficult, "ignore", "negative")
        one_of("train_difficult", train_difficult or difficult, "ignore", "negative")
        self.sets: dict[Split, str] = {"train": train_split, "test": test_split}
        self.difficult: dict[Split, str] = {"train": train_difficult or difficult, "test": difficult}
        self.download = download

    def prepare_data(self) -> None:
        """Download if asked to; check that every image is there."""
        devkit = self.root / "VOCdevkit" / f"VOC{self.year}"  # what the archives hold
        if self.download and self._devkit() == devkit:
            for name, image_set in self.downloads.items():
                archive, listed = DATASET_YEAR_DICT[name], f"{VOC_CLASSES[0]}_{image_set}.txt"
                fetch(archive["url"], self.root, archive["md5"], devkit / "ImageSets" / "Main" / listed)
        super().prepare_data()

    def read_split(self, split: Split) -> Samples | None:
        """From ``<class>_<set>.txt``, one file per class, each line an image and its flag."""
        if split not in self.sets:
            return None
        devkit, image_set = self._devkit(), self.sets[split]
        ids, flags = _read_flags(devkit / "ImageSets" / "Main", image_set)
        place = f"image set {image_set} in {devkit}"
        images = [below(devkit / "JPEGImages", f"{name}.jpg", devkit, place) for name in ids]
        return Samples(images, from_voc(flags, self.difficult[split]))

    def _devkit(self) -> Path:
        folder = f"VOC{self.year}"
        for candidate in (self.root / "VOCdevkit" / folder, self.root / folder, self.root):
            if (candidate / "ImageSets").is_dir():
                return candidate
        return self.root / "VOCdevkit" / folder


class VOC2007(_VOC):
    """PASCAL VOC 2007: trainval (5,011 images) to train, test (4,952) to test."""

    year = "2007"
    downloads: ClassVar = {"2007": "trainval", "2007-test": "test"}

    def __init__(
        self, root: str = "data/voc2007", train_split: str = "trainval", test_split: str = "test", **settings: Any
    ) -> None:
        super().__init__(root, train_split, test_split, **settings)


class VOC2012(_VOC):
    """PASCAL VOC 2012: train (5,717 images) to train, val (5,823) to test.

    The labels of its test images are with the PASCAL server; for that, train on trainval (11,540).
    """

    year = "2012"
    downloads: ClassVar = {"2012": "trainval"}

    def __init__(
        self, root: str = "data/voc2012", train_split: str = "train", test_split: str = "val", **settings: Any
    ) -> None:
        super().__init__(root, train_split, test_split, **settings)


def _read_flags(folder: Path, image_set: str) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int64]]]:
    """Image ids of a set and their (N, K) flags, file by file: ``train`` is a class and a set."""
    ids: list[str] = []
    columns: list[list[int]] = []
    for name in VOC_CLASSES:
        file = folder / f"{name}_{image_set}.txt"
        if not file.is_file():
            raise MlclError(
                f"{file} is missing: give --data.root the folder that holds VOCdevkit, or download it with "
                "--data.download true"
            )
        try:
            lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError as error:
            raise MlclError(f"{file} cannot be read: {error.strerror}") from None
        rows = [line.split() for line in lines]
        for number, row in enumerate(rows, 1):
            if row and (len(row) != 2 or row[1] not in ("1", "0", "-1")):
                raise MlclError(f"{file}, line {number}: each line must be an image and 1, 0 or -1")
        rows = [row for row in rows if row]
        listed = [row[0] for row in rows]
        if not columns:
            ids = [checked(name, str(file)) for name in listed]
            if twice := [name for name, count in Counter(ids).items() if count > 1]:
                raise MlclError(f"{file} lists {short(twice[0])} twice")
        if listed != ids:
            raise MlclError(f"{file} lists other images than {folder / f'{VOC_CLASSES[0]}_{image_set}.txt'}")
        columns.append([int(row[1]) for row in rows])
    return ids, np.array(columns, dtype=np.int64).T.reshape(len(ids), len(VOC_CLASSES))
