"""Packs for tests: of the demo's scenes by ``mlcl pack``, of any bytes by hand; and a store to put them in."""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.once import once
from support.running import REPOSITORY

if TYPE_CHECKING:
    from support.s3_server import Server


@pytest.fixture(scope="session")
def packed(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes of ``demo_root``, a quarter of train held out, in chunks of ten pictures or so."""

    def make(folder: Path) -> None:
        from mlcl.data.demo import Demo
        from mlcl.data.packing import pack

        scenes = {"root": str(demo_root), "train_images": 80, "test_images": 25, "scene_size": 64}
        pack(Demo(**scenes, val_fraction=0.25, num_workers=0), str(folder / "demo"), chunk_bytes=20_000)

    return once(tmp_path_factory, "packed", make) / "demo"


@pytest.fixture(scope="session")
def _server() -> "Iterator[Server]":
    from support.s3_server import Server

    server = Server()
    yield server
    server.kill()


@pytest.fixture
def s3(_server: "Server", monkeypatch: pytest.MonkeyPatch) -> "Iterator[Server]":
    """A server that holds anything, with its environment; a test may kill it.

    fsspec's connections to it stay for the next test, as a new one costs half a second.
    """
    import s3fs

    if _server.process.poll() is not None:
        _server.start()
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    kept = _server.connections.get(_server.process.pid, {})
    if any(kept.get(key) is not files for key, files in s3fs.S3FileSystem._cache.items()):
        s3fs.S3FileSystem.clear_instance_cache()  # those of an earlier server, or of a test without one
    yield _server
    if any(os.environ.get(name) != value for name, value in _server.environment.items()):
        s3fs.S3FileSystem.clear_instance_cache()  # they may know another environment
    _server.connections = {_server.process.pid: dict(s3fs.S3FileSystem._cache)}


def streamed(root: str | Path, *flags: str) -> list[str]:
    """The flags of ``demo_flags`` for the scenes in a pack."""
    return [
        *("--config", str(REPOSITORY / "configs" / "demo.yaml"), "--data", "Streamed", "--data.root", str(root)),
        *("--data.val_fraction", "0.25", "--data.image_size", "48", "--data.batch_size", "16"),
        *("--data.num_workers", "0", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1", *flags),
    ]


def write_pack(folder: Path, pictures: Sequence[bytes], each: int, **changes: Any) -> Path:
    """A pack whose train split has these pictures, ``each`` in a chunk; with other entries in the manifest."""
    from mlcl.data.pack import digest_of, row_type

    (folder / "train").mkdir(parents=True)
    rows, chunks = np.zeros(len(pictures), row_type(2, 9)), []
    for start in range(0, len(pictures), each):
        content = bytearray(b"begin")
        for number in range(start, min(start + each, len(pictures))):
            data = pictures[number]
            where = len(chunks), len(content), len(data), zlib.crc32(data)
            rows[number] = (f"{number}.jpg".encode(), number, *where, (number % 2, 1))
            content += data
        chunks.append((f"chunk-0-{len(chunks)}.bin", len(content)))
        (folder / "train" / chunks[-1][0]).write_bytes(content)
    np.save(folder / "train" / "samples.npy", rows)
    facts = {"images": len(rows), "table": digest_of(folder / "train" / "samples.npy"), "chunks": chunks}
    write_manifest(folder, {"folders": {"train": facts}, **changes})
    return folder


def write_manifest(folder: Path, changes: dict[str, Any]) -> None:
    """The manifest of a pack, or of a hostile one."""
    plain = {
        **{"format": 1, "dataset": "ByHand", "protocol": "", "classes": ["cat", "dog"], "side": None, "quality": None},
        "chosen": {"val_fraction": 0.0, "split_seed": 0, "empty_images": "keep"},
        **{"val_source": "its own split", "notes": {}, "splits": {"train": "train"}},
    }
    (folder / "mlcl.json").write_text(json.dumps({**plain, **changes}))
