"""A pack against the files that it was made of: images per second of a loader, and the start with 1,000,000 images.

Each row of the first tables is an epoch of the training loader (reading, decoding, cropping, collation), from files,
from a pack in a folder, and from a store whose cache is empty at the start of every epoch. The store is moto's S3
server on this machine, which computes on a core of its own; the loader's processes are kept on another.

The second part writes packs of generated pictures of 8 x 8 pixels, and tells what a process of its own needs to its
first batch: seconds, and memory above that of the same process on 1,000 images.

python tests/benchmarks/stream.py [--smoke] [--images 1000000]
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import rounds
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.s3_server import s3_server

from mlcl.data.base import MultiLabelDataModule
from mlcl.data.csv_file import CSVDataset
from mlcl.data.pack import FORMAT, MANIFEST, TABLE, digest_of, row_type
from mlcl.data.packing import pack
from mlcl.data.streamed import Streamed

CLASSES, SIDES, BATCH = 80, (480, 640), 32
_PROBE = "--probe"


def photographs(folder: Path, count: int, sides: tuple[int, int]) -> None:
    """JPEGs of about 100 kB with a smooth picture and grain, and their table."""
    (folder / "images").mkdir(parents=True)
    random, lines = np.random.default_rng(0), ["image,cat,dog"]
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(sides[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = smooth + random.normal(0, 9, smooth.shape).astype(np.float32)
        file = folder / "images" / f"{number:06d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
        lines.append(f"images/{file.name},{number % 2},{number % 3 % 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def epoch(data: MultiLabelDataModule, cache: Path | None, spent: list[float]) -> None:
    """All training batches, of a store with no chunk in the cache; ``spent`` gets the seconds of computing."""
    for file in cache.glob("*/*.bin") if cache else ():
        file.unlink()
    before = sum(os.times()[:4])
    for _ in data.train_dataloader():
        pass
    spent.append(sum(os.times()[:4]) - before)


def speed(folder: Path, count: int, size: int, repeats: int) -> dict[str, object]:
    """Epochs from files, from a folder and from a store, for 0 and 1 workers."""
    sides = SIDES if size > 32 else (48, 64)
    photographs(folder / "files", count, sides)
    written = [file.stat().st_size for file in (folder / "files/images").iterdir()]
    print(f"{count} JPEGs of {statistics.mean(written) / 1e3:.0f} kB, {sides[1]} x {sides[0]}; batches at {size} px")
    report: dict[str, object] = {}
    with s3_server() as server:
        files = {"root": str(folder / "files"), "csv": "labels.csv", "test_fraction": 0.1}
        places = {"pack in a folder": str(folder / "pack"), "pack in a store, empty cache": f"{server.place}/pack"}
        with contextlib.redirect_stderr(io.StringIO()):
            for place in places.values():
                pack(CSVDataset(**files, num_workers=0), place, chunk_bytes=sum(written) // 14)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})  # of this process, its threads and workers; the server has the others
        os.sched_setaffinity(server.process.pid, cores - {min(cores)} or cores)
        for workers in (0, 1):
            given = {
                "image_size": size,
                "batch_size": BATCH,
                "num_workers": workers,
                "cache_dir": str(folder / "cache"),
            }
            sources = {"files": CSVDataset(**files, **given)}
            sources |= {name: Streamed(root=place, **given) for name, place in places.items()}
            with contextlib.redirect_stderr(io.StringIO()):
                for data in sources.values():
                    data.setup()
            spent: dict[str, list[float]] = {name: [] for name in sources}
            steps = {
                name: lambda data=data, name=name, spent=spent: epoch(
                    data, folder / "cache" if "store" in name else None, spent[name]
                )
                for name, data in sources.items()
            }
            seconds, images = rounds.measure(steps, repeats), len(sources["files"].splits["train"].paths)
            computing = {name: times[1:] for name, times in spent.items()}  # without the call to warm up
            for what, times in (("of one core", seconds), ("by computing time, whatever else ran", computing)):
                print(f"\n{workers} workers, images per second {what}: min / median / max of {repeats} epochs in turn")
                print(rounds.table(times, "files", "1/s", images))
            both = {"wall": rounds.summary(seconds, "files"), "computing": rounds.summary(computing, "files")}
            report[f"{workers} workers"] = both
        os.sched_setaffinity(0, cores)
    return report


def write_tiny(folder: Path, count: int) -> None:
    """A pack of so many pictures, some of which are the same; written at once, without litdata's index."""
    random, contents = np.random.default_rng(0), []
    for _ in range(100):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    size = max(map(len, contents))
    pictures = np.frombuffer(b"".join(content.ljust(size, b"\0") for content in contents), np.uint8).reshape(-1, size)
    checks = np.array([zlib.crc32(picture.tobytes()) for picture in pictures])
    folders: dict[str, object] = {}
    for split, images in (("train", count), ("test", 100)):
        (folder / split).mkdir(parents=True)
        rows, place = np.zeros(images, row_type(CLASSES, 26)), np.arange(images)
        rows["name"] = [b"%s2014/%012d.jpg" % (split.encode(), number) for number in range(images)]
        rows["group"], rows["size"], rows["crc"] = place, size, checks[place % len(pictures)]
        per_chunk = 64_000_000 // size
        order = random.permutation(images) if split == "train" else place
        rows["chunk"][order], rows["offset"][order] = place // per_chunk, place % per_chunk * size
        for start in range(0, images, 100_000):
            part = rows["target"][start : start + 100_000]
            part[:] = random.random(part.shape, dtype=np.float32) < 2.9 / CLASSES
        chunks = []
        for number, start in enumerate(range(0, images, per_chunk)):
            own = pictures[order[start : start + per_chunk] % len(pictures)]
            own.tofile(folder / split / f"chunk-0-{number}.bin")
            chunks.append((f"chunk-0-{number}.bin", own.size))
        np.save(folder / split / TABLE, rows)
        folders[split] = {"images": images, "table": digest_of(folder / split / TABLE), "chunks": chunks}
    manifest = {
        "format": FORMAT, "dataset": "generated", "protocol": "", "classes": [f"class {k}" for k in range(CLASSES)],
        "side": None, "quality": None, "chosen": {"val_fraction": 0.0, "split_seed": 0, "empty_images": "keep"},
        "val_source": "the test images", "notes": {}, "splits": {"train": "train", "val": "test", "test": "test"},
        "folders": folders,
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest))


def probe(place: str, workers: int) -> None:
    """In a process of its own: seconds from opening a pack to the first training batch, and the memory it took."""
    torch.set_num_threads(1)
    times = {"": time.perf_counter()}
    data = Streamed(root=place, image_size=32, batch_size=BATCH, augment="flip", num_workers=workers)
    data.prepare_data()
    data.pack.parts  # noqa: B018, what reads and checks the tables
    times["opening and checking the table"] = time.perf_counter()
    data.setup()
    times["labels looked through and told"] = time.perf_counter()
    batches = iter(data.train_dataloader())
    times["loader"] = time.perf_counter()
    next(batches)
    times["order and first batch"] = time.perf_counter()
    seconds = {name: end - start for (_, start), (name, end) in itertools.pairwise(times.items())}
    print(json.dumps({"seconds": {**seconds, "all": sum(seconds.values())}, "MB": memory()}))


def memory() -> float:
    """MB of this process at most, and of its workers now what they do not share with it."""
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
            peak += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    return peak / 1e6


def start(folder: Path, count: int, repeats: int) -> dict[str, object]:
    """The two packs, opened in turn by processes of their own."""
    for name, images in (("few", 1000), ("many", count)):
        write_tiny(folder / name, images)
    report: dict[str, object] = {}
    for workers in (0, 2):
        found: dict[str, list[dict]] = {"few": [], "many": []}
        for _ in range(repeats):
            for name, runs in found.items():
                command = [sys.executable, __file__, _PROBE, str(folder / name), str(workers)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"\n{count:,} pictures, {workers} workers: seconds to the first batch, min / median / max of {repeats}")
        for part in found["many"][0]["seconds"]:
            times = sorted(run["seconds"][part] for run in found["many"])
            print(f"{part:32} {times[0]:7.2f} {statistics.median(times):7.2f} {times[-1]:7.2f}")
        above = [many["MB"] - few["MB"] for few, many in zip(found["few"], found["many"], strict=True)]
        print(f"MB above those of 1,000 pictures {min(above):7.0f} {statistics.median(above):7.0f} {max(above):7.0f}")
        report[f"{workers} workers"] = {**found, "MB above": above}
    return report


def main(count: int, size: int, many: int, repeats: int, smoke: bool) -> None:
    """Both parts, and runs/bench-stream.json."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        report = {"epochs": speed(Path(folder, "speed"), count, size, repeats)}
        report["start"] = start(Path(folder, "start"), many, repeats)
    rounds.save("stream", report, smoke)


if __name__ == "__main__":
    if sys.argv[1:2] == [_PROBE]:
        probe(sys.argv[2], int(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--smoke", action="store_true", help="tiny: does it run?")
        parser.add_argument("--images", type=int, default=1_000_000, help="of the second part")
        given = parser.parse_args()
        if given.smoke:
            main(count=24, size=32, many=2000, repeats=1, smoke=True)
        else:
            main(count=1152, size=448, many=given.images, repeats=5, smoke=False)
