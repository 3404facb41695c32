"""MS-COCO 2014 and 2017, and anything in their layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.coco_labels import check_objects, chosen, note_unused, read_table
from mlcl.data.dataset import Samples
from mlcl.data.download import fetch
from mlcl.data.file_names import below, short
from mlcl.data.options import one_of
from mlcl.data.regions import Regions, of_coco
from mlcl.data.splits import Split
from mlcl.errors import MlclError

# In the order of the category ids, which run from 1 to 90 with holes.
COCO_CLASSES = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
    bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
    snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,
    fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,
    potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,
    refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n    ", "").split(",")
)
_HOST = "http://images.cocodataset.org"
_ARCHIVES = (
    (f"{_HOST}/annotations/annotations_trainval2014.zip", "0a379cfc70b0e71301e0f377548639bd", "annotations"),
    (f"{_HOST}/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", "train2014"),
    (f"{_HOST}/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", "val2014"),
)
_ARCHIVES_2017 = (
    (
        f"{_HOST}/annotations/annotations_trainval2017.zip",
        "f4bbac642086de4f52a3fdda2de5fa2c",
        "annotations/instances_train2017.json",  # the folder may be there, with the annotations of 2014
    ),
    (f"{_HOST}/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", "train2017"),
    (f"{_HOST}/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", "val2017"),
)


class COCO2014(MultiLabelDataModule):
    """MS-COCO 2014: train2014 (82,783 images, 702 without a label) and val2014 (40,504, 367 without) as the test.

    Papers that drop the images without a label (ML-GCN, ASL, MulCon) have 82,081 and 40,137: ``empty_images: drop``.
    ``root`` holds ``annotations/instances_{train,val}2014.json``, ``train2014/`` and ``val2014/``. With ``year`` 2017
    it is train2017 (118,287 images) and val2017 (5,000) in the same layout: the same pictures, divided anew.

    Args:
        year: 2014 or 2017.
        classes: some of the 80, or all in another order; objects of other classes are ignored.
        min_area: smaller objects are ignored; pixels of the original picture (COCO calls those below 1024 small).
        crowd: keep or drop groups outlined as one object (``iscrowd`` 1).
        download: fetch the archives (19 GB; of 2017, 20 GB) where the tree is missing, checksums verified.
        **settings: see :class:`MultiLabelDataModule`.
    """

    classes = COCO_CLASSES

    def __init__(
        self,
        root: str = "data/coco",
        download: bool = False,
        year: Literal[2014, 2017] = 2014,
        classes: list[str] | None = None,
        min_area: float = 0.0,
        crowd: Literal["keep", "drop"] = "keep",
        **settings: Any,
    ) -> None:
        super().__init__(root=root, **settings)
        one_of("year", str(year), "2014", "2017")
        check_objects(min_area, crowd)
        self.known = type(self).classes  # the categories of the annotation files, in the order of their ids
        self.classes = chosen(classes, self.known, type(self).__name__)
        self.download, self.min_area, self.crowd = download, min_area, crowd
        self.folders: dict[Split, str] = {"train": f"train{year}", "test": f"val{year}"}
        self.archives = _ARCHIVES_2017 if year == 2017 else _ARCHIVES

    def prepare_data(self) -> None:
        """Download if asked to; check that every image is there."""
        if self.download:
            for url, md5, brings in self.archives:
                fetch(url, self.root, md5, self.root / brings)
        super().prepare_data()

    def read_split(self, split: Split) -> Samples | None:
        """``train`` is train2014 (2017), ``test`` is val2014 (2017); there is no validation split of its own."""
        if split not in self.folders:
            return None
        folder = self.folders[split]
        annotations = self.annotations(split)
        if not annotations.is_file():
            raise MlclError(
                f"{annotations} is missing: give --data.root a folder in the COCO layout (annotations/, "
                f"{self.folders['train']}/, {self.folders['test']}/), or download it with --data.download true"
            )
        table = read_table(annotations, self.min_area, self.crowd)
        samples = read_coco(annotations, self.root / folder, self.known, self.classes, self.min_area, self.crowd)
        self.notes |= note_unused(table, annotations, split)
        return samples

    def read_regions(self, source: Split, paths: Sequence[Path]) -> Regions | None:
        """From the same annotation file: polygons, run lengths, or boxes."""
        every, options = lambda: self.read_split(source).paths, (self.min_area, self.crowd)  # type: ignore[union-attr]
        return of_coco(self.annotations(source), every, self.classes, paths, *options)

    def annotations(self, split: Split) -> Path:
        """The annotation file of train or test."""
        return self.root / "annotations" / f"instances_{self.folders[split]}.json"


def read_coco(
    annotations: Path,
    images: Path,
    known: tuple[str, ...],
    classes: Sequence[str] | None = None,
    min_area: float = 0.0,
    crowd: str = "keep",
) -> Samples:
    """Paths and targets from a COCO annotation file.

    Args:
        annotations: an ``instances_*.json``.
        images: folder of the pictures.
        known: the names expected, in the order of the category ids.
        classes: those of the targets' columns; by default all.
        min_area: see :class:`COCO2014`; by default an object of any size makes its class present.
        crowd: see :class:`COCO2014`.

    Raises:
        MlclError: if the file is not COCO JSON, its categories are others, or a name leads out of the folder that
            holds the folder of pictures.
    """
    table = read_table(annotations, min_area, crowd)
    names = tuple(table.classes.tolist())
    if names != known:
        differ = sorted(set(names) ^ set(known)) or ["their order"]
        listed = short(", ".join(differ[:5]))
        raise MlclError(f"{annotations} has {len(names)} categories, expected {len(known)}; different: {listed}")
    place, root = str(annotations), images.parent
    paths = [below(images, name, root, place) for name in table.file_names.tolist()]
    return Samples(paths, table.columns(known if classes is None else classes))
