"""The input pipeline on one core, in images per second, against Pillow and torchvision's v1 transforms in the same run.

Every row is a whole loader without worker processes: reading, decoding, resizing, augmentation, collation. The
reference delivers normalised float32, as research code does; ours uint8, normalised inside the network. That costs
time on the device, so rows with "finished" add it on this core: the augmentation's steps and the normalisation.

python tests/benchmarks/pipeline.py [--root COCO] [--smoke]
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import rounds
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms.v2 import InterpolationMode

from mlcl.data import augment, decoding, images, jpeg
from mlcl.data.cache import open_cache
from mlcl.data.dataset import ImageDataset, Samples, collate
from mlcl.data.demo import write_scenes

REAL = Path(__file__).parents[3] / "shared/data/coco2014"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32


class PillowDataset(Dataset):
    """The usual dataset of research code: Pillow, v1 transforms, normalised float32."""

    def __init__(self, paths: list[Path], transform: Callable) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as picture:
            return self.transform(picture.convert("RGB")), index


class PillowCutout:
    """A square hole in a Pillow image."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, picture: Image.Image) -> Image.Image:
        pixels = np.array(picture)
        top, left = (np.random.randint(side) - self.length // 2 for side in pixels.shape[:2])
        pixels[max(top, 0) : top + self.length, max(left, 0) : left + self.length] = np.random.randint(0, 256, 3)
        return Image.fromarray(pixels)


def references(size: int) -> dict[str, v1.Compose]:
    """The recipes as their papers' code has them."""
    end = [v1.ToTensor(), v1.Normalize(MEAN, STD)]
    resize, flip = v1.Resize((size, size)), v1.RandomHorizontalFlip()
    return {
        "none": v1.Compose([resize, *end]),
        "csra": v1.Compose([v1.RandomResizedCrop(size, scale=(0.7, 1)), flip, *end]),
        "sadcl_stage1": v1.Compose([resize, PillowCutout(size // 2), v1.RandAugment(), *end]),
    }


def decode(
    encoded: list[bytearray], decoder: decoding.Decoder | None, then: Callable[[torch.Tensor], object] = len
) -> None:
    """Each picture, one after the other; without checks, unless with Pillow."""
    for data in encoded:
        pixels = decoder(data, 1) if decoder else decoding.read_pixels("", content=data)
        then(images.as_tensor(pixels))


def decoders() -> dict[str, decoding.Decoder | None]:
    """Each decoder of JPEGs that works here, by name and version; Pillow last."""
    return dict(jpeg.choose(modules) for modules in [*zip(jpeg.MODULES), ()])


def spend(loader: Iterable) -> None:
    """Take everything out."""
    for _ in loader:
        pass


def finish(loader: Iterable, dataset: ImageDataset) -> None:
    """The same, with what is otherwise left to the device."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    for batch in loader:
        image = dataset.finish(batch["image"], batch["drawn"]) if "drawn" in batch else batch["image"]
        image.float().mul_(1 / 255 / std).sub_(mean / std)  # as the network does


def ours(
    paths: list[Path], name: str, size: int, folder: Path | None, on_device: bool
) -> tuple[ImageDataset, DataLoader]:
    """Our dataset and its loader, on a cache in ``folder`` if one is given."""
    augmentation = augment.AUGMENTATIONS[name](size, InterpolationMode.BILINEAR)
    pixels = open_cache(paths, augmentation, "disk", folder) if folder else None
    samples = Samples(paths, np.ones((len(paths), 1), dtype=np.int8))
    dataset = ImageDataset(samples, augmentation, pixels=pixels, on_device=on_device)
    return dataset, DataLoader(dataset, BATCH, collate_fn=collate)


def main(root: Path | None, size: int, count: int, repeats: int, smoke: bool) -> None:
    """Three tables, and runs/bench-pipeline.json."""
    torch.set_num_threads(1)
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        real = root or (REAL if REAL.is_dir() and not smoke else None)
        if real is None:
            write_scenes(Path(folder, "scenes"), train=1, val=count, size=64 if smoke else 480)
        paths = sorted((real or Path(folder, "scenes")).glob("val2014/*.jpg"))[:count]
        encoded = [bytearray(path.read_bytes()) for path in paths]
        print(
            f"{len(paths)} {'real JPEGs' if real else 'generated scenes'}, {size} x {size}, one core, no worker process"
        )
        print(f"images per second: min / median / max of {repeats} rounds in turn; ratio to the first row\n")
        _, chosen = jpeg.choose()
        for name, transform in references(size).items():
            steps: dict[str, Callable[[], object]] = {
                "Pillow, v1 transforms, float32": lambda t=transform: spend(DataLoader(PillowDataset(paths, t), BATCH)),
            }
            if name == "none":  # what is done to a picture, without files, checks and collation
                resized = augment.Augmentation(size).resized
                for title, decoder in decoders().items():
                    steps[f"decoding alone, {title}"] = lambda decoder=decoder: decode(encoded, decoder)
                steps["mlcl, decoding and resizing alone"] = lambda resized=resized: decode(encoded, chosen, resized)
            variants = {"mlcl": (None, False), "mlcl, disk cache": (Path(folder), False)}
            if name != "none":
                variants["mlcl, on device"] = (None, True)
                variants["mlcl, disk cache, on device"] = (Path(folder), True)
            for title, (cache, on_device) in variants.items():
                dataset, loader = ours(paths, name, size, cache, on_device)
                steps[title] = lambda loader=loader: spend(loader)
                steps[f"{title}, finished"] = lambda loader=loader, dataset=dataset: finish(loader, dataset)
            seconds = rounds.measure(steps, repeats)
            print(f"augment: {name}\n{rounds.table(seconds, next(iter(steps)), '1/s', len(paths))}\n")
            report[name] = rounds.summary(seconds, next(iter(steps)))
    rounds.save("pipeline", {"images": len(paths), "real": real is not None, "size": size, "recipes": report}, smoke)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="a folder with val2014/*.jpg")
    parser.add_argument("--smoke", action="store_true", help="tiny: does it run?")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*deprecated")  # torchvision's decoders, 0.29
    if given.smoke:
        main(given.root, size=32, count=6, repeats=1, smoke=True)
    else:
        main(given.root, size=448, count=96, repeats=5, smoke=False)
