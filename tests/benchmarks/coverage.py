"""Coverage maps of as many images and objects as COCO's val2014: built, opened again, size and memory.

make bench
python tests/benchmarks/coverage.py [--part 0.1]

Beside them, the drawing of the same outlines by pycocotools alone, on one core: what no way of computing them can save.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rounds
from PIL import Image

from mlcl.data.coco import COCO2014, COCO_CLASSES

IMAGES, OBJECTS, CORNERS, WIDTH, HEIGHT, GRID = 40_504, 290_000, 25, 640, 480, (14, 14)


def outlines(count: int, rng: np.random.Generator) -> Iterator[list[float]]:
    """Star-shaped polygons, small and large as COCO's: four of ten are smaller than 32 x 32 pixels."""
    for _ in range(count):
        radius = min(200.0, rng.lognormal(3.3, 1.0))
        angles = np.sort(rng.uniform(0, 2 * np.pi, max(3, rng.poisson(CORNERS))))
        reach = radius * rng.uniform(0.6, 1.2, len(angles))
        points = rng.uniform(0, (WIDTH, HEIGHT)) + np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)
        yield points.clip(0, (WIDTH, HEIGHT)).round(2).ravel().tolist()


def write_tree(root: Path, part: float) -> int:
    """Annotations in COCO's form, and a picture under every name: its header is all that is read. Returns objects."""
    rng, images, objects = np.random.default_rng(0), round(part * IMAGES), round(part * OBJECTS)
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "picture.jpg")
    entries = [{"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(images)]
    for entry in entries:
        os.link(root / "picture.jpg", root / "val2014" / entry["file_name"])
    rate = rng.gamma(1.2, size=images)  # some crowded, some empty
    of_image = np.sort(rng.choice(images, objects, p=rate / rate.sum()))
    shares = 1 / np.arange(2, len(COCO_CLASSES) + 2)
    themes = rng.choice(len(COCO_CLASSES), (images, 4), p=shares / shares.sum())
    of_class = themes[of_image, rng.integers(0, 4, objects)]
    annotations = [
        {"id": n, "image_id": int(of_image[n]), "category_id": int(of_class[n]), "segmentation": [outline]}
        for n, outline in enumerate(outlines(objects, rng))
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(COCO_CLASSES)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    return objects


class Test(COCO2014):
    """Without the training images."""

    def read_split(self, split):
        """Of val2014 alone."""
        return super().read_split(split) if split == "test" else None


def measured(root: str, workers: int) -> dict:
    """Open the maps, in a process of its own: seconds, pairs, megabytes at most."""
    data = Test(root, num_workers=workers, cache_dir=f"{root}/cache")
    data.read_splits()
    start = time.perf_counter()
    maps = data.coverage("test", GRID)
    seconds = time.perf_counter() - start
    # Not getrusage's maximum: a new process starts with that of the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"seconds": seconds, "pairs": len(maps.rows), "peak_MB": int(status["VmHWM"].split()[0]) / 1024}


def drawing(root: str, most: int) -> float:
    """Seconds in which pycocotools draws an outline, on average."""
    from pycocotools import mask

    with open(f"{root}/annotations/instances_val2014.json") as file:
        objects = json.load(file)["annotations"][:most]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of decode (2.0.11), with NumPy 2
        for entry in objects:
            mask.decode(mask.merge(mask.frPyObjects(entry["segmentation"], HEIGHT, WIDTH)))
    return (time.perf_counter() - start) / len(objects)


def main() -> None:
    """Build them, open them twice; a table, and runs/bench-coverage.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", type=float, default=1.0, help="of val2014's images and objects")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help="a few images: only to see that it works")
    options = parser.parse_args()
    part, workers = (0.001 if options.smoke else options.part), 0 if options.smoke else 2
    if options.run:
        print(json.dumps(measured(options.run, workers)))
        return
    with tempfile.TemporaryDirectory() as root:
        objects = write_tree(Path(root), part)
        print(f"{round(part * IMAGES):,} images, {objects:,} objects, {GRID[0]} x {GRID[1]} cells, {workers} workers")
        report: dict = {"images": round(part * IMAGES), "objects": objects, "workers": workers}
        for name in ("built", "opened", "opened again"):
            command = [sys.executable, __file__, "--run", root, *(["--smoke"] if options.smoke else [])]
            # Each in a process of its own: with the memory of none before.
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            report[name] = one = json.loads(done.stdout)
            print(f"{name:13} {one['seconds']:9.3f} s   {one['pairs']:,} pairs   {one['peak_MB']:.0f} MB at most")
        size = sum(file.stat().st_size for file in Path(root, "cache").glob("*.npy"))
        report["bytes"], each = size, drawing(root, 2000)
        report["drawing_alone_seconds"] = each * objects
        ratio = report["built"]["seconds"] / report["drawing_alone_seconds"]
        print(f"file          {size / 1e6:9.1f} MB")
        print(f"drawing alone {each * objects:9.3f} s on one core; built in {ratio:.2f} of that")
    rounds.save("coverage", report, options.smoke)


if __name__ == "__main__":
    main()
