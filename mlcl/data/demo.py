"""The demo dataset: generated scenes in the COCO layout, read by the COCO reader."""

from typing import Any

from mlcl.data.coco import COCO2014
from mlcl.data.demo_scenes import CLASSES, write_scenes


class Demo(COCO2014):
    """Synthetic scenes with 12 classes, written on first use; the same settings give the same pictures.

    Args:
        root: folder to write to.
        train_images: number of training images.
        test_images: number of test images.
        scene_size: typical side of a generated picture in pixels.
        scene_seed: of the generator; not the training's seed.
        **settings: see :class:`MultiLabelDataModule`.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str = "data/demo",
        train_images: int = 2000,
        test_images: int = 600,
        scene_size: int = 128,
        scene_seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(root=root, **settings)
        self.scenes = {"train": train_images, "val": test_images, "size": scene_size, "seed": scene_seed}

    def prepare_data(self) -> None:
        """Write the scenes where they are not there yet."""
        write_scenes(self.root, **self.scenes)
        super().prepare_data()
