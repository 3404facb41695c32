"""A packed dataset, see ``pack.py``, as a dataset: from a folder, or streamed from an object store."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.dataset import ImageDataset, Samples
from mlcl.data.pack import Pack
from mlcl.data.sampler import AHEAD, ChunkSampler, EpochSampler
from mlcl.data.splits import Split
from mlcl.data.store import is_url
from mlcl.errors import MlclError
from mlcl.system.console import say
from mlcl.system.seeding import global_seed

_MIXED = 8  # chunks from a store


class Streamed(MultiLabelDataModule):
    """What ``mlcl pack`` has written. Splits, classes and labels are those of the dataset that was packed.

    Args:
        root: folder of the pack, or its URL in an object store, such as s3://bucket/prefix; keys come from the usual
            environment.
        cache_gb: space in 1e9 bytes that what is fetched of this pack may take on this machine, in the folder
            cache_dir.
        mixed_chunks: chunks whose training images are in random order at a time. 0 mixes all images, in the order in
            which files would be read; by default 0 for a folder and 8 for a store.
        **settings: see :class:`MultiLabelDataModule`.

    Raises:
        MlclError: if there is no whole pack, or it was packed with other splits than those asked for.
    """

    def __init__(
        self, root: str = "data", cache_gb: float = 20.0, mixed_chunks: int | None = None, **settings: Any
    ) -> None:
        super().__init__(root=root, **settings)
        if not cache_gb > 0:
            raise MlclError(f"data.cache_gb is {cache_gb}, it must be above 0")
        if mixed_chunks is not None and mixed_chunks < 0:
            raise MlclError(f"data.mixed_chunks is {mixed_chunks}, it must be at least 0")
        place = root if is_url(root) else os.path.expanduser(root)
        self.pack = Pack(place, Path(self.cache_dir) if self.cache_dir else None, cache_gb)
        self.root, self.classes = self.pack.root, self.pack.classes
        self.mixed = mixed_chunks if mixed_chunks is not None else _MIXED * self.pack.is_remote
        packed = self.pack.manifest["chosen"]
        for name, plain in (("val_fraction", 0.0), ("split_seed", 0), ("empty_images", "keep")):
            if (given := getattr(self, name)) not in (plain, packed[name]):
                raise MlclError(
                    f"data.{name} is {given}, but {self.pack.place} was packed with {packed[name]}; give --data.{name} "
                    f"{packed[name]}, or pack with --data.{name} {given}"
                )

    def read_split(self, split: Split) -> Samples | None:
        """The images of a split, with the lines of the pack's table as labels."""
        if split not in self.pack.splits:
            return None
        pictures = self.pack.pictures(split)
        group = pictures.rows["group"]
        groups = None if (group == np.arange(len(group))).all() else [str(number) for number in group]
        return Samples(pictures, pictures.rows["target"], groups, self.pack.splits[split])

    def divide_splits(self) -> tuple[dict[Split, Samples], str]:
        """As they were packed; the same images may serve as val and test."""
        self.notes |= self.pack.manifest["notes"]
        if self.pack.is_remote:
            say(f"{self.pack.place}: chunks are kept in {self.pack.cache}, up to {self.pack.cache_bytes / 1e9:g} GB")
        read: dict[str, Samples | None] = {}
        for split, folder in self.pack.splits.items():
            read.setdefault(folder, self.read_split(split))  # type: ignore[arg-type]
        found: dict[Any, Samples] = {split: s for split, f in self.pack.splits.items() if (s := read[f]) is not None}
        return found, self.pack.manifest["val_source"]

    def portable_arguments(self) -> dict[str, Any]:
        """As in the base; a URL as it is."""
        return {**super().portable_arguments(), "root": self.pack.place if self.pack.is_remote else str(self.root)}

    def prepare_data(self) -> None:
        """Nothing: whether the pack is whole was seen when it was opened."""

    def dataset(self, split: Split, augmented: bool = True) -> ImageDataset:
        """As in the base; MlclError if the cache is too small for the chunks that are needed at a time."""
        if self.pack.is_remote and split in self.splits:
            self._check_room(split, augmented)
        return super().dataset(split, augmented)

    def order(self, split: Split, dataset: Dataset[Any]) -> EpochSampler:
        """As in the base, or chunk by chunk."""
        training = split == "train"
        if not (self.mixed if training else self.pack.is_remote):
            return super().order(split, dataset)
        if training and self.sampler != "random":
            raise MlclError(f"data.sampler {self.sampler} needs --data.mixed_chunks 0")
        pictures: Any = self.splits[split].paths
        ahead = pictures.chunks.fetch_ahead if self.cache == "none" else _nothing
        return ChunkSampler(dataset, global_seed(), training, pictures.chunk, self.mixed, ahead)

    def _check_room(self, split: Split, augmented: bool) -> None:
        """Raise MlclError if reading a split would fetch the same chunks again and again."""
        sizes = sorted((chunk.size for chunk in self.pack.chunks(self.pack.splits[split])), reverse=True)
        ranks, at_once, or_else = self.trainer.num_devices if self.trainer is not None else 1, len(sizes), ""
        if split != "train":
            at_once = ranks * (1 + AHEAD)
        elif augmented and self.cache == "none":
            # Of each rank those that it mixes, one that its workers have not left yet, and those that come.
            at_once = ranks * (self.mixed + 1 + AHEAD) if self.mixed else len(sizes)
            or_else = f", or another --data.mixed_chunks (now {self.mixed})"
        tables = sum(part.table.file.stat().st_size for part in self.pack.parts.values())
        needed = sum(sizes[:at_once]) + tables
        if needed > self.pack.cache_bytes:
            raise MlclError(
                f"data.cache_gb {self.pack.cache_bytes / 1e9:g} is too small: {min(at_once, len(sizes)):,} chunks are "
                f"needed at once for {split}; give {math.ceil(needed / 1e5) / 1e4:g}{or_else}"
            )


def _nothing(chunks: list[int]) -> None:
    """Nothing is fetched for pictures that another cache holds."""
