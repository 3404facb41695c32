"""What ``fuzz.py`` feeds: valid files of every kind, the functions that read them, and changes at random."""

import io
import json
import os
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from stress import fuzz_configs

PICTURES = ("jpeg", "png", "gif", "webp", "tiff", "bmp")
READERS = (*PICTURES, "coco", "voc", "csv", "config", "flags")
WORDS = [bytes.fromhex(word) for word in "00 ff ffd8 ffc0 ffda ffffffff 7fffffff efbbbf fffe c328".split()]
WORDS += rb"""IDAT null NaN Infinity 1e999 ../ / " , ; [ { } ] : - & * ! | -1 0 true <<: a:""".split()
WORDS += [b"!!python/name:os.system ", b"\n", b"\r", b"\t", b" ", b"- ", b": ", b"9" * 400, b"[" * 2000, b"x" * 5000]
VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "../../x",
    "x" * 5000,
    "\ud800",
    "\0",
    [],
    {},
    [1],
)


# --- Valid files to start from


def seeds(reader: str) -> list[bytes]:
    """Valid inputs of a reader."""
    from PIL import Image
    from support.trees import coco_json, picture

    if reader in PICTURES:
        modes = {"jpeg": ("RGB", "L", "CMYK"), "png": ("RGB", "RGBA", "P", "L", "I;16"), "gif": ("P",)}
        made = []
        for mode in modes.get(reader, ("RGB",)):
            for options in ({}, {"progressive": True}, {"exif": _exif()}) if reader == "jpeg" else ({},):
                buffer = io.BytesIO()
                image = picture(40, 24)
                image = Image.new("I;16", (40, 24), 300) if mode == "I;16" else image.convert(mode)
                image.save(buffer, reader, **options)
                made.append(buffer.getvalue())
        return made
    if reader == "coco":
        content = coco_json({1: "cat", 2: "dog"}, {1: [1, 2], 2: [], 3: [2]})
        return [json.dumps(content).encode(), json.dumps(content, indent=1).encode()]
    if reader == "voc":
        return [b"000001  1\n000002 -1\n000003  0\n", b"a 1\r\nb 0\r\n"]
    if reader == "csv":
        return [
            b"image,cat,dog,split\na.jpg,1,0,train\nb.jpg,,-1,test\n",
            b'image;cat\n"a;b.jpg";1\n',
            "image\tcat\né.jpg\t1\n".encode("utf-16"),
        ]
    if reader == "config":
        return [path.read_bytes() for path in fuzz_configs.CONFIGS]
    return ["\0".join(line.split(" ")).encode() for line in fuzz_configs.FLAGS]


def _exif() -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


# --- The readers: return, or raise what they will


def reader_of(name: str, folder: Path) -> Callable[[bytes], None]:
    """A function that reads one input as its reader does."""
    if name in PICTURES:
        from mlcl.data.images import read_image

        def picture(data: bytes) -> None:
            (folder / "picture").write_bytes(data)
            image = read_image(folder / "picture")
            assert image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0

        return picture
    if name == "coco":
        from mlcl.data import coco

        def annotations(data: bytes) -> None:
            (folder / "a.json").write_bytes(data)
            table = coco._parse(folder / "a.json")  # without the cache, which would grow by a file per input
            assert all(array.dtype.kind in "Ui" for array in table.values())

        return annotations
    if name == "voc":
        from mlcl.data.voc import VOC2007, VOC_CLASSES

        lists = folder / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{VOC_CLASSES[0]}_trainval.txt").write_bytes(b"")
        for other in VOC_CLASSES[1:]:  # one file under all names
            if not (lists / f"{other}_trainval.txt").exists():
                (lists / f"{other}_trainval.txt").symlink_to(lists / f"{VOC_CLASSES[0]}_trainval.txt")

        def flags(data: bytes) -> None:
            (lists / f"{VOC_CLASSES[0]}_trainval.txt").write_bytes(data)
            VOC2007(str(folder)).read_split("train")

        return flags
    if name == "csv":
        from mlcl.data.csv_file import CSVDataset

        def table(data: bytes) -> None:
            (folder / "labels.csv").write_bytes(data)
            for column in (None, "cat"):
                made = CSVDataset(root=str(folder), labels_column=column, num_workers=0)
                made.read_split("train"), made.read_split("test")

        return table
    from mlcl.__main__ import main
    from mlcl.errors import MlclError

    os.chdir(folder)
    demo = str(Path(__file__).parents[2] / "configs" / "demo.yaml")

    def command(data: bytes) -> None:
        if name == "config":
            (folder / "mine.yaml").write_bytes(data)
            arguments = ["--config", "mine.yaml"]
        else:
            arguments = ["--config", demo, *data.decode(errors="replace").split("\0")]
        err = io.StringIO()
        out, sys.stdout, before, sys.stderr = sys.stdout, io.StringIO(), sys.stderr, err
        try:
            status = main(["fit", *arguments, "--print_config"])
        finally:
            sys.stdout, sys.stderr = out, before
        said = err.getvalue()
        assert not Path("pwned").exists(), "a command was run"
        if status not in (0, 1, 2) or (status and (said.count("\n") != 1 or not said.startswith("mlcl: "))):
            raise AssertionError(f"status {status}, said {said[-1500:]!r}")
        if status and "MLCL_DEBUG=1 shows where" in said:  # an exception that nobody made a line of
            raise AssertionError(said[:300])
        if status:
            raise MlclError(said)

    return command


# --- Mutations


def changes_of(reader: str) -> Callable[[bytes, list[bytes], random.Random], bytes]:
    """How inputs of a reader are made from valid ones: of data, the others and a generator."""
    own = {"config": fuzz_configs.changed_config, "flags": fuzz_configs.changed_flags}.get(reader, mutated)
    return lambda data, others, rng: (mutated if rng.random() < 0.2 else own)(data, others, rng)


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to six changes: bits, bytes, words, lengths, parts of another input; of JSON, also values and keys."""
    if data[:1] == b"{" and rng.random() < 0.6:
        try:
            return json.dumps(_changed(json.loads(data), rng)).encode()
        except (ValueError, RecursionError):  # broken by an earlier change, or nested by it
            pass
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at, kind = rng.randrange(len(result) + 1), rng.randrange(9)
        if kind == 0 and at < len(result):
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(result):
            result[at] = rng.randrange(256)
        elif kind == 2:
            result[at:at] = rng.choice(WORDS)
        elif kind == 3:
            word = rng.choice(WORDS)
            result[at : at + len(word)] = word
        elif kind == 4:
            del result[at : at + rng.choice((1, 2, 4, 16, 200))]
        elif kind == 5:
            result[at:at] = result[at : at + rng.choice((1, 4, 16, 200))] * rng.choice((1, 2, 50))
        elif kind == 6:
            del result[at:]
        elif kind == 7 and len(result) >= 4:
            at = rng.randrange(len(result) - 3)
            number = rng.choice((0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(1 << 32)))
            form = rng.choice((">I", "<I", ">H", "<H"))
            result[at : at + struct.calcsize(form)] = struct.pack(form, number & (1 << 8 * struct.calcsize(form)) - 1)
        else:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            result[at:] = other[start:]
    return bytes(result[:200_000])


def _changed(content: object, rng: random.Random) -> object:
    """JSON with one value or key in it changed, dropped or repeated."""
    places = []

    def collect(node: object) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            collect(node[key])

    collect(content)
    for _ in range(rng.choice((1, 1, 2)) if places else 0):
        node, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0 and isinstance(node, dict):
            node.pop(key, None)
        elif kind == 1 and isinstance(node, list):
            node.append(node[min(key, len(node) - 1)] if node else 1)
        elif isinstance(node, dict) or key < len(node):
            node[key] = rng.choice(VALUES) if kind < 3 else rng.choice(places)[1]
    return content
