"""Packing against copying the same files to another folder and reading them once; and what each part of it costs.

python tests/benchmarks/packing.py [--folder DIR] [--images N] [--smoke]
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import rounds
from litdata.streaming import Cache
from PIL import Image

from mlcl.data import CSVDataset
from mlcl.data.packing import pack

SIDE, CHUNK = 448, 64_000_000


def write(root: Path, count: int, side: int) -> None:
    """JPEGs of about 100 kB at 448 x 597, smooth with noise, and their table; a quarter of them for the test."""
    random, width = np.random.default_rng(0), side * 4 // 3
    root.mkdir()
    for number in range(count):
        colours = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize((width, side), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + random.integers(-16, 17, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"{number}.jpg", quality=87)
    rows = [f"{number}.jpg,{number % 2},{'test' if number % 4 == 0 else 'train'}\n" for number in range(count)]
    (root / "labels.csv").write_text("image,a,split\n" + "".join(rows))


def in_processes(task: Callable[[Sequence[Path]], None], files: Sequence[Path], workers: int) -> None:
    """A part of the files for each process."""
    parts = [files[number::workers] for number in range(workers)]
    processes = [multiprocessing.get_context("fork").Process(target=task, args=(part,)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def copy_and_read(files: Sequence[Path], folder: Path) -> None:
    """The reference."""
    for file in files:
        shutil.copyfile(file, folder / file.name)
    for file in files:
        file.read_bytes()


def cleared(folder: Path) -> None:
    """An empty folder, and a disk that has nothing left to write."""
    for path in folder.iterdir():
        shutil.rmtree(path)
    (folder / "copy").mkdir()
    os.sync()


def write_with_litdata(contents: Sequence[bytes], folder: Path, per_chunk: int) -> None:
    """The chunks alone."""
    for number, start in enumerate(range(0, len(contents), per_chunk)):
        place = folder / str(number)
        cache = Cache(str(place), chunk_bytes=1 << 62, writer_chunk_index=number)
        for row, image in enumerate(contents[start : start + per_chunk]):
            cache[row] = {"image": image, "index": row, "name": "x", "target": np.zeros(1, np.int8)}
        cache.done()


def write_plainly(contents: Sequence[bytes], folder: Path, per_chunk: int) -> None:
    """The same bytes to as many files."""
    for number, start in enumerate(range(0, len(contents), per_chunk)):
        with (folder / f"{number}.bin").open("wb") as file:
            for image in contents[start : start + per_chunk]:
                file.write(image)


def main(argv: Sequence[str] | None = None) -> None:
    """Both in turn with 1 and 2 processes, then the parts; tables, and runs/bench-packing.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where files are read and written; by default the one for temporary files")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--smoke", action="store_true", help="a few tiny pictures: only to see that it works")
    options = parser.parse_args(argv)
    images, side, repeats = (12, 48, 1) if options.smoke else (options.images, SIDE, options.repeats)
    report: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root, out = Path(folder, "data"), Path(folder, "out")
        write(root, images, side)
        out.mkdir()
        files = sorted(root.glob("*.jpg"))
        size = sum(file.stat().st_size for file in files) / images
        print(f"{images:,} JPEGs of {size / 1000:.0f} kB in {folder}")
        for workers in (1, 2):
            data = CSVDataset(root=str(root), num_workers=workers)
            packed = partial(pack, data, str(out / "pack"), chunk_bytes=CHUNK)
            copied = partial(in_processes, partial(copy_and_read, folder=out / "copy"), files, workers)
            steps = {"": partial(cleared, out), "copied and read": copied, " ": partial(cleared, out), "packed": packed}
            with contextlib.redirect_stderr(io.StringIO()):
                seconds = rounds.measure(steps, repeats)
            seconds = {name: times for name, times in seconds.items() if name.strip()}  # without the clearing
            print(f"\nimages per second, {workers} process{'es' * (workers > 1)}")
            print(rounds.table(seconds, "copied and read", "1/s", images))
            report[f"{workers} processes"] = rounds.summary(seconds, "copied and read")
        contents = [file.read_bytes() for file in files]
        per_chunk = max(1, int(CHUNK / size))
        parts: dict[str, Callable[[], object]] = {
            "copied and read": partial(copy_and_read, files, out / "copy"),
            "read": lambda: [file.read_bytes() for file in files],
            "CRC-32": lambda: [zlib.crc32(content) for content in contents],
            "litdata writes": lambda: write_with_litdata(contents, out / "copy", per_chunk),
            "the same bytes written": lambda: write_plainly(contents, out / "copy", per_chunk),
        }
        steps = {}
        for number, (name, part) in enumerate(parts.items()):
            steps |= {" " * number: partial(cleared, out), name: part}
        seconds = {name: times for name, times in rounds.measure(steps, repeats).items() if name.strip()}
        print("\nparts, one process")
        print(rounds.table(seconds, "copied and read", "us", images))
        report["parts"] = rounds.summary(seconds, "copied and read")
    rounds.save("packing", report, options.smoke)


if __name__ == "__main__":
    main()
