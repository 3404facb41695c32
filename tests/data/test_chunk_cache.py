"""The cache of a store's chunks: its limit, damage on the disk, processes that are killed, several at once."""

import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.packs import write_pack
from torch.utils.data import DataLoader, Dataset

import mlcl.data.sampler
from mlcl.data.pack import Pack
from mlcl.data.sampler import ChunkSampler
from mlcl.errors import MlclError

FORK, SPAWN = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")
PICTURES, EACH = 250, 3  # of about 1.5 kB
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of two processors


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(1000 + 10 * (n % 100)) for n in range(PICTURES)]


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory) -> Path:
    """The pack in a folder."""
    return write_pack(tmp_path_factory.mktemp("chunks") / "pack", pictures, EACH)


@pytest.fixture(scope="module")
def place(_server, folder) -> str:
    """The pack in the store, uploaded once: no test here changes it, or kills the server."""
    if _server.process.poll() is not None:  # a test of another file did
        _server.start()
    return _server.upload(folder, folder.parent.name)


@pytest.fixture(autouse=True)
def _environment_of_the_server(s3) -> None:
    return


class Lengths(Dataset):
    """Reads a picture, and compares it with what was packed."""

    def __init__(self, packed, pictures):
        self.packed, self.pictures = packed, pictures

    def __len__(self):
        return len(self.packed)

    def __getitem__(self, key):
        _, index = key
        assert self.packed.read(index) == self.pictures[index]
        time.sleep(0.0005)
        return index


class Watch:
    """Looks at the folder's size every 10 ms; not counted if it changed meanwhile, so that a file was seen twice."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.most, self.looks, self.stop = folder, 0, 0, threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        while not self.stop.wait(0.01):
            try:
                before = os.listdir(self.folder)
                total = sum(os.stat(self.folder / name).st_size for name in before)
            except FileNotFoundError:
                continue
            if os.listdir(self.folder) == before:
                self.most, self.looks = max(self.most, total), self.looks + 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def read_as_rank(pack, pictures, rank, world, workers, mixed, count, results) -> None:
    mlcl.data.sampler.world_size, mlcl.data.sampler.rank = lambda: world, lambda: rank
    packed, seen = pack.pictures("train").take(np.arange(count)), []
    own = ChunkSampler(packed, 0, True, packed.chunk, mixed, packed.chunks.fetch_ahead)
    for batch in DataLoader(Lengths(packed, pictures), 8, sampler=own, num_workers=workers):
        seen += batch.tolist()
    results.put(seen)


def epoch_of(pack, pictures, workers, world=2, mixed=1, count=PICTURES) -> list[int]:
    results = FORK.Queue()
    ranks = [
        FORK.Process(target=read_as_rank, args=(pack, pictures, rank, world, workers, mixed, count, results))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    seen = [index for _ in ranks for index in results.get(timeout=100)]
    for process in ranks:
        process.join(20)
        assert process.exitcode == 0
    return seen


@pytest.mark.parametrize("workers", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 3))])
def test_the_limit_holds_while_ten_times_as_much_goes_by(place, folder, pictures, tmp_path, workers):
    total, table = sum(map(len, pictures[:150])), os.path.getsize(folder / "train/samples.npy")
    limit = total / 10 + table
    pack = Pack(place, tmp_path / "cache", cache_gb=limit / 1e9)
    with Watch(pack.cache) as watch:
        seen = epoch_of(pack, pictures, workers, count=150)
    assert sorted(seen) == list(range(150)) and watch.looks > 20
    assert 0.5 * limit < watch.most <= 1.1 * limit
    assert not list(pack.cache.glob("*.partial"))


@pytest.mark.slow
def test_room_for_one_chunk_alone_is_slow_but_no_deadlock(place, folder, pictures, tmp_path):
    table = os.path.getsize(folder / "train/samples.npy")
    chunks = [size for _, size in Pack(place).manifest["folders"]["train"]["chunks"]]
    pack = Pack(place, tmp_path / "cache", cache_gb=(max(chunks) + table) / 1e9)
    with Watch(pack.cache) as watch:
        seen = epoch_of(pack, pictures, workers=1, mixed=2, count=24)
    assert sorted(seen) == list(range(24)) and watch.most <= pack.cache_bytes
    pack = Pack(place, tmp_path / "other", cache_gb=(max(chunks) - 1 + table) / 1e9)
    big = int(np.argmax(chunks)) * EACH
    with pytest.raises(MlclError, match=r"have no room for a chunk of .* GB; give more --data.cache_gb"):
        pack.pictures("train").read(big)


def test_damage_on_this_disk_is_noticed_and_fetched_again(place, pictures, tmp_path):
    packed = Pack(place, tmp_path / "cache").pictures("train")
    assert packed.read(7) == pictures[7]
    [file] = (tmp_path / "cache").rglob("*chunk-0-2.bin")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(pictures[7]) + 3] ^= 4
    for damaged in (bytes(flipped), whole[:-1], b""):
        file.write_bytes(damaged)
        assert packed.read(7) == pictures[7] and file.read_bytes() == whole


def test_what_a_killed_process_was_fetching_is_removed(s3, place, pictures, tmp_path):
    pack = Pack(place, tmp_path / "cache")
    packed = pack.pictures("train")
    packed.read(0)
    victim = FORK.Process(target=packed.read, args=(10,))
    s3.process.send_signal(signal.SIGSTOP)
    try:
        victim.start()
        time.sleep(0.5)
        victim.kill()
        victim.join()
    finally:
        s3.process.send_signal(signal.SIGCONT)
    # It may have been stopped before it wrote anything: what it leaves then.
    left = pack.cache / f"{packed.table.key}-chunk-0-3.{packed.chunks.chunks[3].size}.partial"
    left.write_bytes(b"half")
    assert packed.read(20) == pictures[20] and not left.exists()
    assert packed.read(10) == pictures[10]


def test_a_full_disk_is_one_line(place, tmp_path, capfd):
    packed = Pack(place, tmp_path / "cache").pictures("train")

    def read() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            packed.read(0)
        except MlclError as error:
            print(error, flush=True)

    process = FORK.Process(target=read)
    process.start()
    process.join(60)
    said = capfd.readouterr().out
    assert said == (
        f"chunks cannot be kept in {packed.chunks.folder}: File too large; --data.cache_dir names another folder\n"
    )
    assert not list(packed.chunks.folder.glob("*.bin")) + list(packed.chunks.folder.glob("*.partial"))


def test_a_chunk_of_an_earlier_pack_at_the_address_is_not_taken(s3, pictures, tmp_path):
    pictures = pictures[: 3 * EACH]
    place = s3.upload(write_pack(tmp_path / "old", pictures, EACH), tmp_path.name)
    assert Pack(place, tmp_path / "cache").pictures("train").read(0) == pictures[0]
    s3.upload(write_pack(tmp_path / "new", pictures[::-1], EACH), tmp_path.name)
    pack = Pack(place, tmp_path / "cache")
    assert pack.pictures("train").read(0) == pictures[-1]
    assert len(list(pack.cache.glob("*.npy"))) == 1


def reads(packed, pictures) -> None:
    assert all(packed.read(index) == pictures[index] for index in (3, 100, PICTURES - 1))


def test_spawned_workers_map_the_table_themselves(place, pictures, tmp_path):
    packed = Pack(place, tmp_path / "cache").pictures("train")
    assert len(pickle.dumps(packed)) < len(packed.table.rows.tobytes()) / 2
    assert len(pickle.dumps(packed.take(np.arange(10)))) < len(packed.table.rows.tobytes()) / 2
    reads(pickle.loads(pickle.dumps(packed)), pictures)


@pytest.mark.slow
def test_a_spawned_process_reads_too(place, pictures, tmp_path):
    packed = Pack(place, tmp_path / "cache").pictures("train")
    process = SPAWN.Process(target=reads, args=(packed, pictures))
    process.start()
    process.join(100)
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [20])
def test_workers_forked_while_a_thread_fetches_do_not_hang(place, pictures, tmp_path, rounds):
    for number in range(rounds):
        packed = Pack(place, tmp_path / f"cache{number}").pictures("train")
        packed.chunks.fetch_ahead(range(60))
        packed.read(PICTURES - 1)
        own = ChunkSampler(packed, 0, False, packed.chunk, 1, packed.chunks.fetch_ahead)
        loader = DataLoader(Lengths(packed, pictures), 16, sampler=own, num_workers=3, timeout=60)
        assert [index for batch in loader for index in batch.tolist()] == list(range(PICTURES))
