"""PASCAL VOC 2007 and 2012, from the image-level flags of ``ImageSets/Main``."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import TreeBuilder, XMLParser

import numpy as np
from torchvision.datasets.voc import DATASET_YEAR_DICT

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.dataset import Samples
from mlcl.data.download import fetch
from mlcl.data.file_names import below, checked, short
from mlcl.data.labels import from_voc
from mlcl.data.options import one_of
from mlcl.data.regions import Region, Regions, state_of
from mlcl.data.splits import Split
from mlcl.data.voc_classes import VOC_CLASSES as VOC_CLASSES
from mlcl.errors import MlclError

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
        """From ``<set>.txt``, each line an image, and ``<class>_<set>.txt``, each line an image and its flag."""
        if split not in self.sets:
            return None
        devkit, image_set = self._devkit(), self.sets[split]
        _check_layout(self.root, devkit / "ImageSets" / "Main", image_set)
        ids, flags, left_out = _read_flags(devkit / "ImageSets" / "Main", image_set)
        if left_out:
            here = f"{left_out:,} images are not in every class's file"
            self.notes[split] = f"{split}: {here}; they count as absent there"
        place = f"image set {image_set} in {devkit}"
        images = [below(devkit / "JPEGImages", f"{name}.jpg", devkit, place) for name in ids]
        return Samples(images, from_voc(flags, self.difficult[split]))

    def read_regions(self, source: Split, paths: Sequence[Path]) -> Regions | None:
        """The boxes of ``Annotations/<id>.xml``. Difficult ones, too: where the class is present, they show it."""
        devkit = self._devkit()
        files = [devkit / "Annotations" / path.relative_to(devkit / "JPEGImages").with_suffix(".xml") for path in paths]
        return Regions(("voc", [state_of(file) for file in files]), lambda: [read_boxes(file) for file in files])

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


def _read_flags(folder: Path, image_set: str) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int64]], int]:
    """Image ids of a set, their (N, K) flags, and how many of them a class's file leaves out: these are absent there.

    Each class has a file, ``train`` is a class and a set. Where ``<set>.txt`` is missing, too, all files must list the
    same images.
    """
    files = [folder / f"{name}_{image_set}.txt" for name in VOC_CLASSES]
    flags = [_read_list(file, flagged=True) for file in files]
    listing = folder / f"{image_set}.txt"
    whole, listed = (listing, _read_list(listing)) if listing.is_file() else (files[0], flags[0])
    for file, own in zip(files, flags, strict=True):
        if differ := own.keys() - listed.keys() or (listed.keys() - own.keys() if whole != listing else set()):
            raise MlclError(f"{file} lists other images than {whole}: {short(min(differ))} is in one of them only")
    ids = [checked(name, str(whole)) for name in {**flags[0], **listed}]  # in the order of the class, if that has all
    left_out = sum(any(name not in own for own in flags) for name in ids)
    columns = [[own.get(name, -1) for name in ids] for own in flags]
    return ids, np.array(columns, dtype=np.int64).T.reshape(len(ids), len(VOC_CLASSES)), left_out


def _check_layout(root: Path, lists: Path, image_set: str) -> None:
    """Raise MlclError for what annotation tools call VOC: XML files, or lists, of classes of one's own."""
    if (lists / f"{VOC_CLASSES[0]}_{image_set}.txt").is_file():
        return
    listed = {file.name.removesuffix(f"_{image_set}.txt") for file in lists.glob(f"*_{image_set}.txt")}
    files = [file for place in (root, root / "Annotations") for file in place.glob("*.xml")]
    if others := sorted(listed.difference(VOC_CLASSES)) or sorted(file.name for file in files[:1]):
        raise MlclError(
            f"{lists if listed else root} has {short(', '.join(others[:3]))}, but no list of {VOC_CLASSES[0]}: for "
            "classes of your own make a table of XML files (docs/interop.md), or export COCO's form (--data COCOJSON)"
        )


def _read_list(file: Path, flagged: bool = False) -> dict[str, int]:
    """The images of a list, each with its flag; -1 in a list without flags."""
    if not file.is_file():
        raise MlclError(
            f"{file} is missing: give --data.root the folder that holds VOCdevkit, or download it with "
            "--data.download true"
        )
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise MlclError(f"{file} cannot be read: {error.strerror}") from None
    flags: dict[str, int] = {}
    for number, row in enumerate(map(str.split, lines), 1):
        if not row:
            continue
        if len(row) != 1 + flagged or row[1:] not in ([], ["1"], ["0"], ["-1"]):
            raise MlclError(f"{file}, line {number}: each line must be an image{' and 1, 0 or -1' * flagged}")
        if row[0] in flags:
            raise MlclError(f"{file} lists {short(row[0])} twice")
        flags[row[0]] = int(row[-1]) if flagged else -1
    return flags


class _Plain(TreeBuilder):
    """An XML file without a document type, whose entities could make a small file a large one."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise MlclError("it has a document type (DOCTYPE), which VOC's files have not")


def read_boxes(file: Path) -> list[Region]:
    """The objects in an annotation file, none if there is no such file; their parts (head, hand, foot) are none.

    Pixels are counted from 1, and ``xmax`` is the last that the box holds.

    Raises:
        MlclError: if it is no XML, or an object's box is not within reason.
    """
    try:
        root = ElementTree.fromstring(file.read_bytes(), XMLParser(target=_Plain()))
        size = [int(root.findtext(f"size/{name}") or 0) for name in ("height", "width")]
        return [
            Region(VOC_CLASSES.index(name), (size[0], size[1]) if all(size) else None, box=_box(entry))
            for entry in root.iterfind("object")
            if (name := (entry.findtext("name") or "").strip()) in VOC_CLASSES
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MlclError(f"{file} cannot be read: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError, LookupError, MlclError) as error:  # LookupError: an unknown encoding
        raise MlclError(f"{file} is no annotation file of VOC: {error}") from None


def _box(entry: ElementTree.Element) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in pixels counted from 0, the last two not included; some files have fractions."""
    corners = [float(entry.findtext(f"bndbox/{name}") or "nan") for name in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = corners
    if not (-1e6 < left <= right < 1e6 and -1e6 < top <= bottom < 1e6):
        raise MlclError(
            f"the box of {entry.findtext('name')} is {short(str(corners))}, it must be xmin, ymin, xmax, ymax"
        )
    return math.floor(left) - 1, math.floor(top) - 1, math.ceil(right), math.ceil(bottom)
