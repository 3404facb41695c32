"""mlcl predict with images that are no files: objects of an S3 server, spoken to through HTTP, and packs."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import s3fs
from support.nodes import run_nodes
from support.running import at_once, demo_flags
from support.s3_server import BUCKET

from mlcl.data.far_images import FarImages
from mlcl.data.pack import Pack
from mlcl.data.store import Store
from mlcl.errors import MlclError

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")  # botocore on newer Pythons


@pytest.fixture
def server(s3):
    return s3


@pytest.fixture(scope="module")
def packed(demo_root, tmp_path_factory) -> Path:
    """The small demo in chunks of a few images; its val is its test."""
    from mlcl.cli.settings import dataset
    from mlcl.data.packing import pack

    place = tmp_path_factory.mktemp("packed") / "pack"
    flags = [flag for flag in demo_flags(demo_root) if flag not in ("--trainer.max_epochs", "2")]
    pack(dataset("pack", [*flags, "--data.val_fraction", "0.1"]), str(place), chunk_bytes=20_000)
    return place


def rows_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def options(source: Path, *images: str | Path, workers: int = 0) -> list[str]:
    return ["predict", "--ckpt_path", str(source), "--num_workers", str(workers), "--images", *map(str, images)]


def scores_by_name(rows: list[dict[str, str]]) -> dict[str, list[str]]:
    """What is said of each file, by its name alone."""
    return {Path(row["path"]).name: [*row.values()][1:] for row in rows}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_objects_below_a_prefix(mlcl, trained, demo_root, server, tmp_path, workers):
    """In the order of folders, by their ending; the URL as a person would write it."""
    prefix = f"folder{workers}"
    place = server.upload(demo_root / "val2014", f"{prefix}/b")
    first = (demo_root / "val2014" / "COCO_val2014_000000000001.jpg").read_bytes()
    for key, body in {"b-.jpg": first, "a b/ü#1.jpg": first, "notes.txt": b"no", "no.jpg": b"no", "b.jpg": b""}.items():
        server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=body)
    cold = {"Key": f"{prefix}/cold.jpg", "Body": first, "StorageClass": "GLACIER"}  # which has to be restored first
    server.client().put_object(Bucket=BUCKET, **cold)
    place = place.removesuffix("/b")
    outcome = mlcl(*options(trained, f"{place}/", workers=workers), "--output", "far.csv", "--batch_size", "4")
    assert outcome.status == 1, outcome.err
    said = [line for line in outcome.err.splitlines() if line.startswith("not read: ")]
    assert said[0] == f"not read: {place}/b.jpg: not a picture in any known format"
    assert said[1].startswith(f"not read: {place}/cold.jpg: ") and "storage class" in said[1]
    assert said[2] == f"not read: {place}/no.jpg: not a picture in any known format" and len(said) == 3
    assert mlcl(*options(trained, demo_root / "val2014"), "--output", "near.csv", "--batch_size", "4").status == 0
    far, near = rows_of("far.csv"), rows_of("near.csv")
    names = [f"b/{Path(row['path']).name}" for row in near]
    assert [row["path"] for row in far] == [f"{place}/{name}" for name in ("a b/ü#1.jpg", *names, "b-.jpg")]
    by_name = scores_by_name(far)
    assert by_name["ü#1.jpg"] == by_name["b-.jpg"] == by_name["COCO_val2014_000000000001.jpg"]
    for name, expected in scores_by_name(near).items():
        assert by_name[name] == expected
    written = Path("far.csv").read_text() + outcome.out + outcome.err
    assert not [
        value for value in server.environment.values() if "key" in value or "secret" in value if value in written
    ]


def test_a_list_of_objects_and_files(mlcl, trained, demo_root, server):
    """Each once, in the order of the list; one that is gone is named, and so is one of a bucket that is not there.

    A loader's process reads them.
    """
    place = server.upload(demo_root / "val2014", "listed")
    near = demo_root / "val2014" / "COCO_val2014_000000000002.jpg"
    one, two = (f"{place}/COCO_val2014_00000000000{n}.jpg" for n in (1, 2))
    odd = f"{place}/without-ending"
    server.client().put_object(Bucket=BUCKET, Key="listed/without-ending", Body=near.read_bytes())
    Path("list.txt").write_text(f"{two}\n{near}\n{place}/gone.jpg\n{odd}\ns3://elsewhere/a.jpg\n")
    outcome = mlcl(*options(trained, one, "@list.txt", one, two, near, workers=1), "--output", "o.jsonl")
    assert outcome.status == 1, outcome.err
    rows = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [one, two, str(near), odd]
    assert rows[1]["scores"] == rows[2]["scores"] == rows[3]["scores"] != rows[0]["scores"]
    assert f"not read: {place}/gone.jpg: no such image\n" in outcome.err
    assert "not read: s3://elsewhere/a.jpg: no such image\n" in outcome.err


@pytest.mark.parametrize("where", ["folder", "store"])
def test_a_pack(mlcl, trained, packed, demo_root, server, where, monkeypatch):
    """Every picture of every folder once, by its name in the pack; a chunk of a store is fetched once."""
    fetched: Counter[str] = Counter()
    download = Store.download
    monkeypatch.setattr(Store, "download", lambda *given: fetched.update([given[1]]) or download(*given))
    place = packed if where == "folder" else server.upload(packed, "pack")
    outcome = mlcl(*options(trained, place, f"{place}/"), "--output", "packed.csv")
    assert outcome.status == 0, outcome.err
    pack, rows = Pack(str(packed)), rows_of("packed.csv")
    order: list[tuple[int, int, int, str]] = []
    for number, pictures in enumerate(pack.parts.values()):
        for row, path in zip(pictures.rows, pictures, strict=True):
            order.append((number, int(row["chunk"]), int(row["offset"]), str(path.relative_to(packed))))
    assert [row["path"] for row in rows] == [name for *_, name in sorted(order)]
    assert len(rows) == 105 and len({row["path"] for row in rows}) == 105
    assert [row["path"].split("/")[0] for row in rows] == ["train2014"] * 80 + ["val2014"] * 25
    assert mlcl(*options(trained, demo_root / "train2014", demo_root / "val2014"), "--output", "near.csv").status == 0
    assert scores_by_name(rows) == scores_by_name(rows_of("near.csv"))
    chunks = {chunk.name for folder in pack.parts for chunk in pack.chunks(folder)}
    assert len(chunks) > 6
    assert {name: n for name, n in fetched.items() if "chunk" in name} == (
        dict.fromkeys(chunks, 1) if where == "store" else {}
    )


def test_a_pack_among_other_images_with_loader_processes(mlcl, trained, packed, demo_root):
    near = demo_root / "val2014" / "COCO_val2014_000000000002.jpg"
    outcome = mlcl(*options(trained, near, packed, near, workers=2), "--output", "o.csv", "--batch_size", "5")
    rows = rows_of("o.csv")
    assert outcome.status == 0 and len(rows) == 106 and rows[0]["path"] == str(near), outcome.err
    (same,) = (row for row in rows[1:] if Path(row["path"]).name == near.name)
    assert [*same.values()][1:] == [*rows[0].values()][1:]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_damaged_chunk_ends_it_in_a_line(mlcl, trained, packed, server, workers):
    """Nothing is written under the output's name; with the chunk in place again, the same command goes on."""
    place = server.upload(packed, f"damaged{workers}")
    pack = Pack(str(packed))
    name = sorted(chunk.name for chunk in pack.chunks([*pack.parts][-1]))[-1]
    whole = (packed / name).read_bytes()
    key = f"damaged{workers}/{name}"
    server.client().put_object(Bucket=BUCKET, Key=key, Body=whole[:2000] + bytes(40) + whole[2040:])
    command = [*options(trained, place, workers=workers), "--output", "o.csv", "--batch_size", "5"]
    outcome = mlcl(*command)
    assert outcome.status == 1 and f"mlcl: {place}/{name} is damaged or another one: " in outcome.err, outcome.err
    assert "Traceback" not in outcome.err and len(outcome.err.splitlines()) == 2 and not Path("o.csv").exists()
    server.client().put_object(Bucket=BUCKET, Key=key, Body=whole)
    outcome = mlcl(*command)
    assert outcome.status == 0 and "o.csv: goes on after " in outcome.err and len(rows_of("o.csv")) == 105


@pytest.mark.slow
def test_a_damaged_chunk_of_the_second_process(trained, packed, tmp_path):
    """It says so itself: the command line leaves messages to the first process."""
    shutil.copytree(packed, tmp_path / "pack")
    pack = Pack(str(packed))
    name = sorted(chunk.name for chunk in pack.chunks([*pack.parts][-1]))[-1]
    whole = (packed / name).read_bytes()
    (tmp_path / "pack" / name).write_bytes(whole[:2000] + bytes(40) + whole[2040:])
    command = [*options(trained, "pack", workers=2), "--output", "o.csv", "--batch_size", "5", "--accelerator", "cpu"]
    statuses, _, err = run_nodes(1, 2, *command, cwd=tmp_path)
    assert statuses != [0] and err.count(f"mlcl: process 2 of 2: mlcl.data.chunk_cache.PackError: pack/{name}") == 1, (
        err
    )
    assert not (tmp_path / "o.csv").exists()
    (tmp_path / "pack" / name).write_bytes(whole)
    statuses, _, err = run_nodes(1, 2, *command, cwd=tmp_path)
    assert statuses == [0] and "o.csv: goes on after" in err and len(rows_of(str(tmp_path / "o.csv"))) == 105


@pytest.mark.slow
def test_a_store_that_does_not_answer_ends_it_in_a_line(mlcl, trained, demo_root, server, monkeypatch):
    """And with the server back, the same command goes on."""
    monkeypatch.setenv("MLCL_STORE_PATIENCE", "3.0")
    server.upload(demo_root / "val2014", "stops")
    command = [*options(trained, f"{server.place}/stops"), "--output", "o.csv", "--batch_size", "5"]
    content = FarImages.content
    with monkeypatch.context() as patched:
        patched.setattr(FarImages, "content", lambda self, n: (n == 12 and server.kill()) or content(self, n))
        outcome = mlcl(*command)
    *waiting, where, line = outcome.err.splitlines()
    assert outcome.status == 1 and len(waiting) == 1 and "asked again for" in waiting[0], outcome.err
    assert "what was predicted so far is in o.csv.part-1-of-1" in where and not Path("o.csv").exists()
    assert line.startswith(f"mlcl: {server.place}/stops/COCO_val2014_000000000013.jpg: Could not connect")
    server.start()
    server.upload(demo_root / "val2014", "stops")
    outcome = mlcl(*command)
    assert outcome.status == 0 and "o.csv: goes on after 10 of 25 images" in outcome.err, outcome.err


def test_what_names_no_images(mlcl, trained, server, monkeypatch, tmp_path):
    """A line each."""
    server.client().put_object(Bucket=BUCKET, Key="empty/notes.txt", Body=b"")
    server.client().put_object(Bucket=BUCKET, Key="begun/packing.json", Body=b"{}")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/packing.json").write_text("{}")
    cases = {
        f"{server.place}/begun": "--images s3://pictures/begun: an unfinished pack",
        str(tmp_path / "begun"): f"--images {tmp_path / 'begun'}: an unfinished pack",
        f"{server.place}/empty": "--images s3://pictures/empty: no image in there",
        f"{server.place}/nothing": "--images s3://pictures/nothing: nothing is there",
        "odd://a/b": "odd://a/b: Protocol not known: odd",
    }
    for url, words in cases.items():
        outcome = mlcl(*options(trained, url), "--output", "o.csv")
        assert outcome.status == 1 and words in outcome.err and outcome.err.count("\n") == 1, outcome.err
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    command = [*options(trained, f"{server.place}/a.jpg"), "--output", "o.csv"]
    s3fs.S3FileSystem.clear_instance_cache()  # which has kept the keys
    done = mlcl(*command)
    assert done.status == 1 and done.err.startswith("mlcl: s3://pictures/a.jpg: no keys for it"), done.err
    assert not [*Path().glob("o.csv*")]


def test_mistakes_with_urls_are_answered_without_torch(trained, demo_root, tmp_path):
    common = ["predict", "--ckpt_path", str(trained), "--output"]
    secret = "s3://me:my-secret@bucket/a.jpg"
    lines = [
        [*common, "o.csv", "--images", secret],
        [*common, "o.csv", "--images", "https://bucket.host/a.jpg?X-Amz-Signature=my-secret"],
        [*common, "s3://bucket/o.csv", "--images", str(demo_root)],
        ["export", "--format", "onnx", "--ckpt_path", str(trained), "--output", "m.onnx", "--images", "s3://bucket/a"],
    ]
    answers = at_once(lines, tmp_path)
    assert [answer.status for answer in answers] == [2] * 4
    assert all("keys belong in the environment" in answer.err for answer in answers[:2])
    assert not [answer for answer in answers if "my-secret" in answer.err]
    assert "--output s3://bucket/o.csv: give a file" in answers[2].err and "no such file" in answers[3].err


@pytest.mark.slow
def test_an_onnx_file_reads_them_too(mlcl, calibrated_low, exported, packed, demo_root, server, monkeypatch):
    """An object, one that is gone, a pack: the same rows as of files; and it is not for several processes."""
    place = server.upload(demo_root / "val2014", "onnx")
    near = [demo_root / "val2014", demo_root / "train2014"]
    outcome = mlcl(*options(exported[0], place, f"{place}/gone.jpg", packed), "--output", "far.csv")
    assert outcome.status == 1 and f"not read: {place}/gone.jpg: no such image" in outcome.err
    assert mlcl(*options(exported[0], *near), "--output", "near.csv").status == 0
    far, rows = rows_of("far.csv"), rows_of("near.csv")
    assert [row["path"] for row in far[:25]] == [f"{place}/{Path(row['path']).name}" for row in rows[:25]]
    assert scores_by_name(far) == scores_by_name(rows) and len(far) == 130
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = mlcl(*options(exported[0], *near), "--output", "o.csv")
    assert outcome.status == 1 and "one process runs an ONNX file; start it without torchrun" in outcome.err


def test_positions(packed, demo_root):
    images = FarImages([str(packed), str(demo_root / "val2014"), str(packed)])
    assert len(images) == 130 and images[105:] == [*FarImages([str(demo_root / "val2014")])]
    assert images[3:5] == [images[3], images[4]] and images.content(105) is None
    assert images.key != FarImages([str(demo_root / "val2014"), str(packed)]).key
    for outside in (130, -1):
        with pytest.raises(IndexError):
            images[outside]
    with pytest.raises(MlclError, match="no image in there"):
        FarImages([str(packed), str(packed.parent)])
