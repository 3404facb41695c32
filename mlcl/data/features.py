"""Feature maps of a frozen backbone in one memory-mapped file per split: computed once, read in every epoch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode

from mlcl.data.augment import AUGMENTATIONS, Augmentation
from mlcl.data.augment_steps import Flip
from mlcl.data.bad_images import BadImages
from mlcl.data.dataset import ImageDataset, Samples, collate
from mlcl.data.images import DECODER, ImageError, read_at
from mlcl.data.labels import UNKNOWN
from mlcl.data.row_file import cache_folder, key_of, no_cache, open_or_write, read_rows, with_progress, write_rows
from mlcl.errors import MlclError
from mlcl.system.seeding import derive, global_seed

_FORMAT = 1  # to be raised when another content is written for the same pictures
_NAMES = ("read", "pooled", "map")
_GREY = 128


@dataclass(frozen=True)
class Extractor:
    """A frozen backbone, as far as the data need to know it."""

    compute: Callable[[Tensor], Tensor]  # uint8 pixels (B, 3, S, S) to its feature maps (B, C, h, w), on the CPU
    name: str  # for messages
    key: Callable[[], str]  # changes with the weights, and with whatever else changes the maps


class FeatureDataset(Dataset[dict[str, Tensor]]):
    """Cached feature maps in place of pictures, with targets and indices.

    Args:
        samples: N paths and targets.
        rows: of the file: ``kept`` views of N images, the views one after the other.
        views: V, number of views in each sample; 1 gives no view axis.
        seed: of the choice among the kept views.
        bad: the list of pictures that could not be read; they have unknown labels.
        reading: arguments of :func:`read_image`.
    """

    def __init__(
        self,
        samples: Samples,
        rows: NDArray[Any],
        views: int = 1,
        seed: int = 0,
        bad: BadImages | None = None,
        reading: dict[str, Any] | None = None,
    ) -> None:
        self.samples, self.rows, self.views, self.seed, self.bad = samples, rows, views, seed, bad
        self.reading, self.kept = reading or {}, len(rows) // len(samples.paths)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.samples.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        """The sample of ``(epoch, index)``: in each epoch another of the kept views.

        Returns:
            ``image``, here the feature map (C, h, w) or (V, C, h, w) float16 or float32, ``target`` (K,) int8,
            ``index`` () int64; where pictures may be skipped ``readable`` () int64, 0 for a skipped one.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        target, count = torch.from_numpy(self.samples.targets[index]), len(self)
        first = derive(self.seed, epoch, index) if self.kept > 1 else 0
        chosen = [(first + view) % self.kept * count + index for view in range(self.views)]
        maps = [torch.from_numpy(self.rows[row]["map"]).movedim(-1, 0) for row in chosen]
        image, skipping = torch.stack(maps) if self.views > 1 else maps[0], {}
        if self.bad is not None:
            skipping = {"readable": torch.tensor(int(self.rows[index]["read"]))}
            if not skipping["readable"]:
                self.bad.add(self.samples.paths[index], self._reason(index))
                target = torch.full_like(target, UNKNOWN)
        return {"image": image, "target": target, "index": torch.tensor(index), **skipping}

    def pooled(self, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of plain pictures that could be read, by default all: the average map, (N, C) float32, targets (N, K)."""
        chosen = np.arange(len(self)) if index is None else index.cpu().numpy()
        chosen = chosen[self.rows["read"][chosen] > 0]
        return torch.from_numpy(self.rows["pooled"][chosen]), torch.from_numpy(self.samples.targets[chosen])

    def _reason(self, index: int) -> str:
        path = self.samples.paths[index]
        try:
            read_at(self.samples.paths, index, **self.reading)
        except ImageError as error:
            return str(error).removeprefix(f"{path}: ")
        return "it could not be read when the cache was written"


def views_to_keep(count: int, augment: str, size: int, mode: InterpolationMode) -> list[tuple[str, Augmentation]]:
    """Name and augmentation of the views that are kept: the plain picture, its mirror image, then augmented ones.

    Their random numbers depend on view and image only, so that runs with several seeds share one file.
    """
    plain, mirrored = Augmentation(size, mode), Augmentation(size, mode, (Flip(1.0),))
    others = [(f"{augment} {view}", AUGMENTATIONS[augment](size, mode)) for view in range(2, count)]
    return [("plain", plain), ("mirrored", mirrored), *others][:count]


def cached(pictures: ImageDataset, data: Any, training: bool) -> FeatureDataset:
    """The features of pictures, as a :class:`MultiLabelDataModule` with ``cache: features`` wants them.

    Raises:
        MlclError: without a network, and for more views in a sample than are kept; see :func:`open_features`.
    """
    if data.extractor is None:
        raise MlclError("data.cache features needs a MultiLabelModule, whose backbone computes them")
    kept, views = (data.views_cached, data.views) if training else (1, 1)
    if views > kept:
        raise MlclError(f"data.views is {views}, but the features of {kept} are kept: --data.views_cached {views}")
    rows = open_features(
        pictures.samples,
        views_to_keep(kept, data.augment, data.image_size, pictures.augmentation.mode),
        data.extractor,
        data.cache_dtype,
        Path(data.cache_dir) if data.cache_dir else None,
        data.batch_size,
        data.workers,
        pictures.bad is not None,
        pictures.reading,
    )
    return FeatureDataset(pictures.samples, rows, views, global_seed(), pictures.bad, pictures.reading)


def open_features(
    samples: Samples,
    views: Sequence[tuple[str, Augmentation]],
    extractor: Extractor,
    dtype: str,
    folder: Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    skip: bool = False,
    reading: dict[str, Any] | None = None,
) -> NDArray[Any]:
    """Feature maps of every view of all images; if there is no file of them, the first process writes it.

    Args:
        samples: the N images.
        views: name and augmentation of each, see :func:`views_to_keep`.
        extractor: the backbone.
        dtype: ``float16`` or ``float32``.
        folder: to write to; by default in the user's cache folder.
        batch_size: pictures at a time.
        workers: processes that decode.
        skip: take a grey picture for one that cannot be read.
        reading: arguments of :func:`read_image`.

    Returns:
        Mapped rows, view by view: ``map`` (h, w, C), ``pooled`` (C,) float32, ``read``: 0 for a grey one.

    Raises:
        MlclError: if there is not enough space, a picture cannot be read, or a value is not finite in ``dtype``.
    """
    folder = folder or cache_folder() / "features"
    pictures = _Pictures(samples, [view for _, view in views], skip, reading or {})
    seen = [(name, view.side, str(view.mode)) for name, view in views]
    versions = torch.__version__, torchvision.__version__, DECODER, PIL.__version__
    how = _FORMAT, seen, sorted((reading or {}).items()), versions, extractor.key(), dtype
    path = folder / f"{key_of(samples.paths, how, skip)}.npy"

    def opened() -> NDArray[Any]:
        rows = read_rows(path, len(pictures))
        if rows.dtype.names != _NAMES or rows.dtype["map"].base != np.dtype(dtype):
            raise ValueError(f"{path} is not a cache of features")
        return rows

    def write() -> None:
        batches = _computed(pictures, extractor, np.dtype(dtype), batch_size, workers)
        first = next(batches)  # which tells the size of a map
        height, width, channels = first.dtype["map"].shape
        count = f"{len(samples.paths):,} pictures" + (f" in {len(views)} views" if len(views) > 1 else "")
        what = f"a cache of {extractor.name}'s features ({channels} x {height} x {width}, {dtype}) of {count}"
        write_rows(path, first.dtype, len(pictures), chain([first], batches), what)

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open_or_write(path, opened, write)
    except OSError as error:
        raise no_cache(folder, error) from error


class _Pictures(Dataset[dict[str, Tensor]]):
    """Every view of all images, view by view: the pixels, and whether they could be read."""

    def __init__(self, samples: Samples, views: Sequence[Augmentation], skip: bool, reading: dict[str, Any]) -> None:
        self.views = [ImageDataset(samples, view, reading=reading) for view in views]
        self.count, self.skip = len(samples.paths), skip

    def __len__(self) -> int:
        return len(self.views) * self.count

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        view, index = divmod(row, self.count)
        try:
            return {"image": self.views[view][view, index]["image"], "read": torch.tensor(1)}
        except ImageError:
            if not self.skip:
                raise
            side = self.views[0].augmentation.side
            return {"image": torch.full((3, side, side), _GREY, dtype=torch.uint8), "read": torch.tensor(0)}


def _computed(
    pictures: _Pictures, extractor: Extractor, dtype: np.dtype[Any], batch_size: int, workers: int
) -> Iterator[NDArray[Any]]:
    # A generator of its own: whether a cache is written must not change the random numbers of the training.
    loader = DataLoader(
        pictures, batch_size, num_workers=workers, collate_fn=collate, generator=torch.Generator().manual_seed(0)
    )
    for batch in with_progress(loader, "features"):
        maps = extractor.compute(batch["image"]).movedim(1, -1)
        stored = maps.to(getattr(torch, dtype.name))
        if not stored.isfinite().all():
            raise MlclError(
                f"{extractor.name}'s features reach {float(maps.abs().max()):.3g}, which is no number in {dtype.name}"
                + ("; give --data.cache_dtype float32" if maps.isfinite().all() else "")
            )
        shape = stored.shape[1:]
        row = np.dtype([("read", "u4"), ("pooled", "f4", shape[-1]), ("map", dtype, shape)])
        rows = np.empty(len(stored), dtype=row)
        rows["read"], rows["map"] = batch["read"].numpy(), stored.numpy()
        rows["pooled"] = maps.float().mean((1, 2)).numpy()
        yield rows
