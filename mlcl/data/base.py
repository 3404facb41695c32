"""The base of all datasets: splits, views, loaders. A dataset adds the reading of its labels."""

import math
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode

from mlcl.data import hiding
from mlcl.data.augment import AUGMENTATIONS
from mlcl.data.bad_images import BadImages, limit, listed, name_of, new_list
from mlcl.data.cache import open_cache
from mlcl.data.coverage import Coverage, open_coverage
from mlcl.data.dataset import ImageDataset, Samples, collate
from mlcl.data.doubts import doubts
from mlcl.data.features import Extractor, FeatureDataset, cached
from mlcl.data.images import check_files, reading_of
from mlcl.data.labels import PRESENT
from mlcl.data.options import WORDS, ascending, at_least, below_one, one_of
from mlcl.data.regions import Regions
from mlcl.data.sampler import ClassAwareSampler, EpochSampler
from mlcl.data.splice import draw, shown, splice
from mlcl.data.splits import SPLITS, Split, checked, described, divide, why_empty
from mlcl.errors import MlclError
from mlcl.system.console import say
from mlcl.system.seeding import global_seed


class MultiLabelDataModule(LightningDataModule):
    """Base of all datasets. A subclass sets ``classes`` in its constructor and writes :meth:`read_split`.

    Args:
        root: folder of the dataset.
        image_size: side in pixels of what the network sees.
        batch_size: images per step and process.
        num_workers: loader processes per training process; the results do not depend on it.
        views: augmented views of each training image.
        augment: training augmentation: none, flip, csra, mulcon_stage1, mulcon, sadcl_stage1, sadcl.
        val_fraction: share of the training images held out to select the checkpoint. With 0, the literature's protocol,
            the test images select it.
        split_seed: of that choice; not the training's seed, so that runs with several seeds share the split.
        empty_images: keep or drop images without any present label.
        interpolation: bilinear or bicubic; by default that of the backbone's weights.
        cache: keep decoded, resized pictures: none, disk (for all later runs) or ram (until this one ends); or
            features: those of a backbone that is frozen as a whole, on disk, in place of pictures.
        cache_dir: folder for them; by default in the user's cache folder, or in shared memory.
        cache_dtype: of features: float16 or float32.
        views_cached: views of each training image whose features are kept: the plain one, its mirror image, then
            augmented ones; each epoch takes one of them.
        augment_on: cpu (in the loader's processes) or device (whole batches, on the network's device); both use the
            same random numbers.
        on_bad_image: raise stops at a picture that cannot be read. skip replaces it by a grey one with unknown labels,
            which enters no loss, no metric and no N, lists it in the run's bad_images.csv, and stops above 1 % of a
            split (or 10 images, if that is more, but never above half of it).
        white: the value that is white in pictures of more than 8 bits, such as 4095 where 12 bits are stored in 16; by
            default the largest of their type, 1 for floats; a picture that stays below a quarter of that is not read.
        max_pixels: a picture with more is not read; by default Pillow's limit, 89 million.
        known_share: of the known training labels, the share that stays known; the others are hidden, at random by
            (seed, image, class), to see what missing labels cost.
        single_positive: hide all labels of a training image but one that is present (Cole et al., CVPR 2021).
        splicemix: share, below 1, of the images of a training step that become grids of reduced images (SpliceMix).
        sampler: of the training images: random, or class_aware (every class equally often, Shen et al., ECCV 2016).
        frequency_borders: training images of a class up to which it counts as rare (tail), and above which as frequent
            (head); the mAP of both, and of those between, is written beside that of all.
    """

    classes: tuple[str, ...]

    def __init__(
        self,
        root: str = "data",
        image_size: int = 448,
        batch_size: int = 32,
        num_workers: int = 4,
        views: int = 1,
        augment: str = "csra",
        val_fraction: float = 0.0,
        split_seed: int = 0,
        empty_images: Literal["keep", "drop"] = "keep",
        interpolation: Literal["bilinear", "bicubic"] | None = None,
        cache: Literal["none", "ram", "disk", "features"] = "none",
        cache_dir: str | None = None,
        augment_on: Literal["cpu", "device"] = "cpu",
        on_bad_image: Literal["raise", "skip"] = "raise",
        white: float | None = None,
        max_pixels: int | None = None,
        cache_dtype: Literal["float16", "float32"] = "float16",
        views_cached: int = 1,
        known_share: float = 1.0,
        single_positive: bool = False,
        splicemix: float = 0.0,
        sampler: Literal["random", "class_aware"] = "random",
        frequency_borders: tuple[int, int] = (20, 100),
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, views=views, max_pixels=max_pixels, views_cached=views_cached)
        at_least(6 if splicemix else 2, image_size=image_size)  # torch (2.14) reduces nothing to 1 pixel
        at_least(0, num_workers=num_workers)
        if white is not None and not 0 < white < math.inf:
            raise MlclError(f"data.white is {white}, it must be above 0")
        below_one(val_fraction=val_fraction, splicemix=splicemix)
        ascending("frequency_borders", frequency_borders)
        hiding.check(known_share, single_positive)
        if splicemix and cache == "features":
            raise MlclError("data.splicemix makes new pictures in each step: not with data.cache features")
        self.root = Path(os.path.expanduser(root))
        self.image_size, self.batch_size, self.num_workers = image_size, batch_size, num_workers
        self.views, self.augment, self.empty_images = views, augment, empty_images
        self.val_fraction, self.split_seed, self.interpolation = val_fraction, split_seed, interpolation
        self.cache, self.augment_on, self.cache_dtype, self.views_cached = cache, augment_on, cache_dtype, views_cached
        self.extractor: Extractor | None = None  # the frozen backbone, set before the loaders are made
        self.cached: dict[Split, FeatureDataset] = {}
        self.cache_dir = os.path.expanduser(cache_dir) if cache_dir else None
        self.on_bad_image = on_bad_image
        self.reading = reading_of({"white": white, "max_pixels": max_pixels})
        self.known_share, self.single_positive, self.hidden = known_share, single_positive, ""
        self.splicemix, self.sampler, self.frequency_borders = splicemix, sampler, frequency_borders
        for name, known in {**WORDS, "augment": tuple(AUGMENTATIONS)}.items():
            one_of(name, getattr(self, name) or known[0], *known)
        self.notes: dict[str, str] = {}  # what the reading of the labels noticed, by split or file
        self.test_only = False  # the training images, and those held out of them, are elsewhere
        self.bad_list: Path | None = None  # of pictures that are skipped
        self.splits: dict[Split, Samples] = {}
        self._training: ImageDataset | None = None  # the augmented one, which finishes batches on the device
        self._next_epoch = 0

    @property
    def workers(self) -> int:
        """Loader processes: ``num_workers``, but at most the processors that this process may use (under SLURM)."""
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self.num_workers, usable)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @abstractmethod
    def read_split(self, split: Split) -> Samples | None:
        """Paths and targets of a split, or None if there is none; MlclError names the file that is missing or wrong."""

    def read_regions(self, source: Split, paths: Sequence[Path]) -> Regions | None:
        """Where the objects of these pictures of a split of the dataset's files are; None without masks and boxes."""
        return None

    def portable_arguments(self) -> dict[str, Any]:
        """Constructor arguments with which another process, in another folder, makes the same dataset."""
        return {"root": str(self.root.resolve()), "interpolation": self.interpolation}

    def prepare_data(self) -> None:
        """Download if asked to, and check that every image of the splits is there."""
        for split in SPLITS:
            if samples := self.read_split(split):
                check_files(samples.paths, split, limit(len(samples.paths)) if self.on_bad_image == "skip" else 0)

    def setup(self, stage: str | None = None) -> None:
        """Read the splits and print a line about each."""
        if self.trainer is not None:  # a rank with other settings must broadcast, too; it is refused later
            skip, own = self.on_bad_image == "skip", self.bad_list
            if skip and own is None and self.trainer.is_global_zero:
                own = new_list(Path(self.trainer.default_root_dir))
            own = self.trainer.strategy.broadcast(own)
            self.bad_list = own if skip else None
        if self.splits:
            return
        val_source = self.read_splits()
        for line in (*self.notes.values(), *doubts(self.splits, self.classes, bool(self.hidden))):
            say(f"warning: {line}")
        for line in described(self.splits, self.classes, val_source, self.hidden):
            say(line)

    def teardown(self, stage: str) -> None:
        """Print how many pictures were skipped."""
        if bad := listed(self.bad_list):
            say(f"{len(bad):,} images could not be read and count for nothing; they are listed in {self.bad_list}")

    def skipped(self, split: Split) -> list[int]:
        """Positions of a split's images that could not be read so far, by any process (``on_bad_image`` skip)."""
        bad = listed(self.bad_list, self._own_name(split))
        return [row for row, path in enumerate(self.splits[split].paths) if name_of(path) in bad] if bad else []

    def _own_name(self, split: Split) -> Split:
        """One name for images that serve as two splits, so that they are listed and counted once."""
        return next(name for name in reversed(self.splits) if self.splits[name] is self.splits[split])

    def read_splits(self) -> str:
        """Fill ``splits``, hide training labels on demand, and describe where the validation images come from."""
        self.splits, val_source = self.divide_splits()
        if train := self.splits.get("train"):
            chosen = global_seed(), self.known_share, self.single_positive
            self.splits["train"], self.hidden = hiding.hide(train, self.root, *chosen)
        return val_source

    def divide_splits(self) -> tuple[dict[Split, Samples], str]:
        """The splits in use, and where the validation images come from, in words."""
        read = {split: checked(self.read_split(split), split, self.empty_images == "drop") for split in SPLITS}
        return divide(read, self.val_fraction, self.split_seed, self.test_only)

    @property
    def nothing_to_learn(self) -> bool:
        """Whether there are training images, but no class is known to be present in any."""
        train = self.splits.get("train")
        return train is not None and len(train.paths) > 0 and not (train.targets == PRESENT).any()

    def dataset(self, split: Split, augmented: bool = True) -> ImageDataset:
        """The images of a split; those of train are augmented, unless ``augmented`` is off, all others only resized.

        Raises:
            MlclError: if the dataset has no such split, or it is empty.
        """
        if hint := why_empty(split, self.splits):
            raise MlclError(f"{type(self).__name__} at {self.root} has no {split} images: {hint}")
        mode = InterpolationMode(self.interpolation or "bilinear")
        training = split == "train" and augmented
        if training and self.nothing_to_learn:
            raise MlclError(
                f"{type(self).__name__} at {self.root}: none of its {len(self.splits[split].paths):,} train images has "
                "a label, so there is nothing to learn; check the labels, and data.val_fraction"
            )
        augmentation = AUGMENTATIONS[self.augment if training else "none"](self.image_size, mode)
        samples, pixels, skip = self.splits[split], None, self.on_bad_image == "skip"
        kind = self.cache if augmented or split != "train" else "none"  # plain training images are read only once
        if kind == "ram" or kind == "disk":
            folder = Path(self.cache_dir) if self.cache_dir else None
            pixels = open_cache(samples.paths, augmentation, kind, folder, self.workers, skip, self.reading)
        bad = BadImages(self._own_name(split), len(samples.paths), self.bad_list) if skip else None
        views, on_device = (self.views, self.augment_on == "device") if training else (1, False)
        return ImageDataset(samples, augmentation, views, global_seed(), pixels, on_device, bad, self.reading)

    def coverage(self, split: Split, grid: tuple[int, int]) -> Coverage:
        """Where a split's objects lie on a map of ``grid`` (h, w) cells; MlclError if it has no masks or boxes."""
        return open_coverage(self, split, grid)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As Lightning does, then the remaining steps of the augmentation; their random numbers stay on the CPU."""
        drawn = batch.pop("drawn", None) if isinstance(batch, dict) else None
        plans, trainer = [], self.trainer
        if self.splicemix and trainer is not None and trainer.training:
            plans = draw(batch["index"], self.splicemix, global_seed(), trainer.current_epoch)
            batch["shown"] = shown(batch["index"], plans)
        batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if drawn is not None and self._training is not None:
            batch["image"] = self._training.finish(batch["image"], drawn)
        return splice(batch, plans) if plans else batch

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """In random order; the last batch is dropped if it is smaller, unless it is the only one."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """In order; may repeat images over ranks, which the metrics drop by their index."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """In order; may repeat images over ranks, which the metrics drop by their index."""
        return self._loader("test")

    def state_dict(self) -> dict[str, Any]:
        """The epoch to continue with: Lightning (2.6.6) starts the workers before it sets the sampler's epoch."""
        return {"next_epoch": self.trainer.current_epoch + 1 if self.trainer else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it for :meth:`train_dataloader`."""
        self._next_epoch = state_dict["next_epoch"]

    def order(self, split: Split, dataset: Dataset[Any]) -> EpochSampler:
        """The order in which a split's images are read: of train a random one, anew in each epoch."""
        if split == "train" and self.sampler == "class_aware":
            return ClassAwareSampler(dataset, global_seed(), self.splits[split].targets)
        return EpochSampler(dataset, seed=global_seed(), shuffle=split == "train")

    def _loader(self, split: Split) -> DataLoader[dict[str, Tensor]]:
        pictures, training, workers = self.dataset(split), split == "train", self.workers
        self._training = pictures if training else self._training
        dataset: ImageDataset | FeatureDataset = pictures
        if self.cache == "features":
            dataset = self.cached[split] = cached(pictures, self, training)
            workers = 0  # mapped rows are read faster than they are sent
        sampler = self.order(split, dataset)
        sampler.set_epoch(self._next_epoch if training else 0)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            drop_last=training and len(sampler) >= self.batch_size,
            # Otherwise the workers' base seed comes from the global generator, whose state differs after a resume.
            generator=torch.Generator().manual_seed(global_seed()),
        )
