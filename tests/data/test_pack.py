"""Reading packs: what is damaged or hostile is refused in one line, and nothing outside the cache is touched."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from support.packs import write_manifest, write_pack

from mlcl.data.chunk_cache import PackError
from mlcl.data.images import ImageError
from mlcl.data.pack import Pack, digest_of, row_type
from mlcl.data.streamed import Streamed
from mlcl.errors import MlclError, line

PICTURES = [bytes([n]) * (50 + n) for n in range(12)]


@pytest.fixture(params=["folder", "store"])
def place_of(request, tmp_path):
    """The address of a folder, or of the same in a store."""
    if request.param == "folder":
        return str
    server = request.getfixturevalue("s3")
    return lambda folder: server.upload(folder, f"{tmp_path.name}/{folder.name}")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_pack(tmp_path / "pack", PICTURES, 4)


def refusal(place, tmp_path, kind=MlclError, read=()) -> str:
    with pytest.raises(kind) as error:
        packed = Pack(place, tmp_path / "cache").pictures("train")
        for index in read:
            packed.read(index)
    message = str(error.value)
    assert "\n" not in message and message == line(message) and place in message and len(message) < 300
    return message.removeprefix(place).removeprefix("/")


def test_every_picture_is_read_as_it_was_packed(folder, place_of, tmp_path):
    packed = Pack(place_of(folder), tmp_path / "cache").pictures("train")
    assert [packed.read(index) for index in range(12)] == PICTURES and packed.read(-1) == PICTURES[-1]
    some = packed.take(np.array([7, 2, 2]))[:2]
    assert [some.read(0), some.read(1)] == [PICTURES[7], PICTURES[2]] and [path.name for path in some] == [
        "7.jpg", "2.jpg",
    ]  # fmt: skip
    assert some.sizes.tolist() == [57, 52] and some.chunk.tolist() == [1, 0] and some.key != packed.key
    with pytest.raises(IndexError):
        packed.read(12)


def swap(folder: Path) -> None:
    a, b = (folder / "train" / f"chunk-0-{n}.bin" for n in (0, 1))
    size = a.stat().st_size
    a.write_bytes((b.read_bytes() + bytes(9))[:size])  # of the same size, with other pictures


def flip(folder: Path) -> None:
    file = folder / "train/chunk-0-0.bin"
    file.write_bytes(file.read_bytes().replace(PICTURES[0], bytes([1]) + PICTURES[0][1:]))


DAMAGES = {
    "cut off": (lambda f: (f / "train/chunk-0-0.bin").write_bytes(b"begin"), "has 5 bytes, 211 were packed"),
    "longer": (lambda f: os.truncate(f / "train/chunk-0-0.bin", 212), "has 212 bytes, 211 were packed"),
    "swapped": (swap, "is damaged or another one: 0.jpg is not in it"),
    "flipped": (flip, "is damaged or another one: 0.jpg is not in it"),
    "missing": (lambda f: (f / "train/chunk-0-0.bin").unlink(), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_chunk_is_named(folder, place_of, tmp_path, damage):
    make, said = DAMAGES[damage]
    make(folder)
    place = place_of(folder)
    assert refusal(place, tmp_path, PackError, [0]) == f"train/chunk-0-0.bin {said}" + (
        ": pack again" if "packed" in said else ""
    )
    assert not issubclass(PackError, ImageError), "on_bad_image skip is for pictures"
    assert Pack(place, tmp_path / "cache").pictures("train").read(11) == PICTURES[11], "the others are whole"
    assert not list(tmp_path.rglob("*.partial")) and not list((tmp_path / "cache").rglob("*chunk-0-0.bin"))


CHUNKS = [["chunk-0-0.bin", 211], ["chunk-0-1.bin", 227], ["chunk-0-2.bin", 243]]
HOSTILE = {  # changes of what the manifest says of train, or of the manifest; what the refusal says
    "chunk above": ({"chunks": [["../../victim", 211], *CHUNKS[1:]]}, "mlcl.json is damaged: the name of a chunk"),
    "chunk absolute": ({"chunks": [["/victim.bin", 211]]}, "mlcl.json is damaged: the name of a chunk"),
    "chunk twice": ({"chunks": [CHUNKS[0], *CHUNKS[:2]]}, "mlcl.json is damaged: a chunk is named twice"),
    "table above": ({"table": "../../victim"}, "mlcl.json is damaged: the name of a table"),
    "negative": ({"chunks": [["chunk-0-0.bin", -1]]}, "mlcl.json is damaged: sizes"),
    "huge": ({"chunks": [["chunk-0-0.bin", 10**30]]}, "mlcl.json is damaged: sizes"),
    "no number": ({"images": "12"}, "mlcl.json is damaged: sizes"),
    "true": ({"images": True}, "mlcl.json is damaged: sizes"),
    "fewer chunks": ({"chunks": CHUNKS[:2]}, "train/samples.npy is no table of this pack"),
    "shorter chunks": ({"chunks": [["chunk-0-0.bin", 100], *CHUNKS[1:]]}, "pictures beyond the end of their chunk"),
    "fewer images": ({"images": 11}, "train/samples.npy is no table of this pack"),
    "no chunks": ({"chunks": None}, "mlcl.json is damaged: "),
    "another table": ({"table": "0" * 32}, "train/samples.npy is no table of this pack"),
    "folder above": ({"folders": {"../up": {}}, "splits": {"train": "../up"}}, "mlcl.json is damaged: splits"),
    "other split": ({"splits": {"train": "val"}}, "mlcl.json is damaged: splits"),
    "one class": ({"classes": ["cat"]}, "other columns"),
    "classes": ({"classes": [["cat"], {}]}, "mlcl.json is damaged: "),
    "newer": ({"format": 2}, "is a pack of format 2, this mlcl reads 1: pack it again"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_manifest_is_refused(folder, tmp_path, attack, s3):
    changes, said = HOSTILE[attack]
    known = json.loads((folder / "mlcl.json").read_text())["folders"]["train"]
    inside = changes.keys() <= known.keys()
    write_manifest(folder, {"folders": {"train": {**known, **changes}}} if inside else changes | (
        {} if "folders" in changes else {"folders": {"train": known}}
    ))  # fmt: skip
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert said in refusal(str(folder), tmp_path)
    assert said in refusal(s3.upload(folder, f"{tmp_path.name}/{folder.name}"), tmp_path)
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    assert {file.parent.parent.name for file in tmp_path.rglob("*") if "cache" in str(file)} <= {
        tmp_path.name, tmp_path.parent.name, "cache",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 1}', "\x00\xff", "[" * 100_000])
def test_a_foreign_manifest_is_refused(folder, tmp_path, text):
    (folder / "mlcl.json").write_text(text)
    assert "no manifest" in (said := refusal(str(folder), tmp_path)) or "mlcl.json is damaged" in said


def test_an_unfinished_pack_and_no_pack_are_told_apart(folder, place_of, tmp_path):
    (folder / "mlcl.json").rename(folder / "packing.json")
    assert refusal(place_of(folder), tmp_path) == (
        " holds an unfinished pack: the same mlcl pack command finishes it"
    ).lstrip("/")
    (folder / "packing.json").unlink()
    assert "holds no pack (no mlcl.json)" in refusal(f"{place_of(folder)}/empty", tmp_path)


class _Runs:
    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def rows_of(**columns):
    rows = np.zeros(12, row_type(2, 9))
    rows["size"], rows["group"] = 50, np.arange(12)
    for name, value in columns.items():
        rows[name] = value
    return rows


TABLES = {
    "damaged": lambda file: file.write_bytes(b"\x93NUMPY\x01\x00 nothing"),
    "empty": lambda file: file.write_bytes(b""),
    "a pickle": lambda file: file.write_bytes(pickle.dumps(_Runs())),
    "pickled objects": lambda file: np.save(file, np.array([_Runs()] * 12), allow_pickle=True),
    "no structure": lambda file: np.save(file, np.zeros(12)),
    "two axes": lambda file: np.save(file, rows_of().reshape(3, 4)),
    "other columns": lambda file: np.save(file, np.zeros(12, [("name", "S9"), ("chunk", "u4")])),
    "no name": lambda file: np.save(file, np.zeros(12, [("chunk", "u4")])),
    "other types": lambda file: np.save(file, rows_of().astype([("name", "S9"), *[
        (name, "f4") for name in ("group", "chunk", "offset", "size", "crc")], ("target", "i1", (2,))])),
    "offset": lambda file: np.save(file, rows_of(offset=2**32 - 1)),
    "size": lambda file: np.save(file, rows_of(size=2**32 - 1)),
    "chunk": lambda file: np.save(file, rows_of(chunk=3)),
    "group": lambda file: np.save(file, rows_of(group=12)),
    "label": lambda file: np.save(file, rows_of(target=2)),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-3]),
}  # fmt: skip


@pytest.mark.parametrize("attack", TABLES)
def test_a_damaged_or_hostile_table_is_refused(folder, tmp_path, attack, monkeypatch):
    """Also where the manifest vouches for it."""
    monkeypatch.chdir(tmp_path)
    file = folder / "train/samples.npy"
    TABLES[attack](file)
    assert refusal(str(folder), tmp_path) == "train/samples.npy is no table of this pack: other bytes than were packed"
    known = json.loads((folder / "mlcl.json").read_text())["folders"]["train"]
    write_manifest(folder, {"folders": {"train": {**known, "table": digest_of(file)}}})
    assert refusal(str(folder), tmp_path).startswith("train/samples.npy is no table of this pack: ")
    assert not Path("pwned").exists()


def test_a_table_that_is_missing_or_damaged_in_the_store(folder, place_of, tmp_path):
    file = folder / "train/samples.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    assert refusal(place_of(folder), tmp_path).startswith("train/samples.npy is no table of this pack")
    file.unlink()
    other = folder.rename(tmp_path / "other")
    assert refusal(place_of(other), tmp_path) == "train/samples.npy is missing"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"val_fraction": 0.3}, "val_fraction is 0.3, but .* was packed with 0.0; give --data.val_fraction 0.0, or"),
        ({"cache_gb": 0}, "data.cache_gb is 0, it must be above 0"),
        ({"mixed_chunks": -1}, "data.mixed_chunks is -1, it must be at least 0"),
    ],
)
def test_settings_that_do_not_fit_the_pack_are_refused(folder, flags, said):
    with pytest.raises(MlclError, match=said):
        Streamed(str(folder), **flags)


def test_a_cache_that_is_too_small_is_refused_with_what_suffices(folder, s3, tmp_path):
    place = s3.upload(folder, tmp_path.name)

    def order(gb, **settings):
        data = Streamed(place, cache_dir=str(tmp_path / "cache"), cache_gb=gb, image_size=16, num_workers=0, **settings)
        data.read_splits()
        return data.order("train", data.dataset("train"))

    with pytest.raises(MlclError, match=r"3 chunks are needed at once for train; give (\S+), or another") as error:
        order(1e-6)
    enough = float(str(error.value).split("; give ")[1].split(",")[0])
    assert len(order(enough)) == 12
    with pytest.raises(MlclError, match=r"sampler class_aware needs --data.mixed_chunks 0"):
        order(1.0, sampler="class_aware")
    assert len(order(1.0, sampler="class_aware", mixed_chunks=0)) == 12
