"""mlcl predict: every readable image once, in order, the others named; the same rows from any number of devices."""

import csv
import io
import json
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.checkpoints import altered
from support.lives import live
from support.running import run_process
from support.trees import picture
from torch.utils.data import DataLoader

from mlcl.data import unlabelled
from mlcl.data.image_files import find_images
from mlcl.data.images import ImageError, read_image
from mlcl.data.voc import VOC_CLASSES
from mlcl.errors import MlclError
from mlcl.inference import Model, load, prediction, writers
from mlcl.runs import record


def write_images(folder: Path, count: int, size: int = 32) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((size, size)).save(path)
    return paths


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def break_some(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Twelve odd ones; returns the readable ones' names, and of the others the reason."""
    whole = (folder / "00001.jpg").read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture at all")
    os.mkfifo(folder / "pipe.jpg")  # root may read everything: this is the one that nobody can
    (folder / "huge.png").write_bytes(bomb())
    Image.new("RGB", (1, 1), "red").save(folder / "tiny.png")
    picture(40, 30).convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70).save(folder / "deep.png")
    frames = [Image.new("P", (20, 20), number) for number in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(40, 30).save(folder / "turned.jpg", exif=exif)
    picture(40, 30).save(folder / "ünïcode 日本.jpg")
    readable = ["tiny.png", "print.jpg", "deep.png", "moving.gif", "turned.jpg", "ünïcode 日本.jpg"]
    return readable, {
        "empty.jpg": "not a picture", "cut.jpg": "", "text.jpg": "not a picture",
        "pipe.jpg": "not a regular file", "huge.png": "decompression bomb",
    }  # fmt: skip


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels by its header; 100 bytes long."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = (30_000).to_bytes(4, "big")
    header = chunk(b"IHDR", side + side + b"\x08\x02\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_folder_with_broken_images(mlcl, trained, tmp_path):
    folder = tmp_path / "images"
    paths = write_images(folder, 20)
    readable, broken = break_some(folder)
    outcome = mlcl("predict", "--ckpt_path", trained, "--images", folder, "--output", "out.csv",
                   "--num_workers", "0", "--accelerator", "cpu")  # fmt: skip
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    rows = rows_of(Path("out.csv"))
    assert {row["path"] for row in rows} == {str(path) for path in paths} | {str(folder / name) for name in readable}
    said = [line.removeprefix("not read: ") for line in outcome.err.splitlines() if line.startswith("not read: ")]
    assert len(said) == len(broken)
    for name, reason in broken.items():
        (line,) = (line for line in said if line.startswith(f"{folder / name}: "))
        assert reason in line and len(line) > len(f"{folder / name}: ") + 5
    assert f"out.csv: {len(rows)} of {len(rows) + len(broken)} images" in outcome.err


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody who may not read")
def test_no_permission(tmp_path):
    """Of a file that only its owner may read."""
    (path,) = write_images(tmp_path / "a", 1)
    path.chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(ImageError, match="Permission denied"):
            read_image(path)
    finally:
        os.seteuid(0)


def test_rows_say_what_the_model_says(mlcl, trained, demo_root):
    outcome = mlcl("predict", "--ckpt_path", trained, "--images", demo_root / "val2014", "--output", "a/b/out.csv",
                   "--num_workers", "0", "--accelerator", "cpu")  # fmt: skip
    assert outcome.status == 0, outcome.err
    rows, model = rows_of(Path("a/b/out.csv")), load(trained, "cpu")
    out = model([row["path"] for row in rows])
    scores = torch.tensor([[float(row[name]) for name in model.classes] for row in rows])
    torch.testing.assert_close(scores, out.scores, atol=1e-6, rtol=0)
    assert [[name for name in row["labels"].split(";") if name] for row in rows] == out.labels
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)


def test_json_lines_and_top(mlcl, trained, demo_root):
    common = ["predict", "--ckpt_path", trained, "--images", demo_root / "val2014", "--num_workers", "0"]
    assert mlcl(*common, "--output", "all.jsonl").status == 0
    assert mlcl(*common, "--output", "top.jsonl", "--top", "3").status == 0
    assert mlcl(*common, "--output", "top.csv", "--top", "99").status == 0
    everything = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    for whole, short in zip(everything, Path("top.jsonl").read_text().splitlines(), strict=True):
        best = sorted(whole["scores"].items(), key=lambda pair: -pair[1])[:3]
        assert list(json.loads(short)["scores"].items()) == best
        assert json.loads(short)["labels"] == whole["labels"]
    row = rows_of(Path("top.csv"))[0]
    assert [f"class_{n + 1}" for n in range(12)] == [key for key in row if key.startswith("class_")]
    assert float(row["score_1"]) == max(everything[0]["scores"].values())


@pytest.mark.slow  # torchrun's processes go the same way, in test_predict_parts.py
def test_two_processes_write_one_file_in_order(mlcl, trained, tmp_path):
    """13 images, batches of 2: the ranks have different numbers of batches, and one image is broken."""
    write_images(tmp_path / "images", 12)
    (tmp_path / "images" / "00003x.jpg").write_text("no")
    common = ["predict", "--ckpt_path", str(trained), "--images", "images", "--num_workers", "0", "--batch_size", "2"]
    common += ["--energy"]
    one = mlcl(*common, "--output", "one.csv", "--accelerator", "cpu")
    two = run_process(*common, "--output", "two.csv", "--accelerator", "cpu", "--devices", "2", cwd=tmp_path)
    assert (one.status, two.returncode) == (1, 1), two.stderr
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text()
    assert len(rows_of(tmp_path / "two.csv")) == 12
    assert all(float(row["energy"]) > 0 for row in rows_of(tmp_path / "two.csv"))
    assert two.stderr.count("not read: images/00003x.jpg: not a picture") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"images", "one.csv", "two.csv"}


def test_a_class_that_the_table_cannot_hold(mlcl, trained, tmp_path):
    altered(trained, tmp_path / "odd.ckpt", lambda content, _: content[record.KEY]["classes"].__setitem__(3, "a;b"))
    write_images(tmp_path / "images", 1)
    common = ["predict", "--ckpt_path", "odd.ckpt", "--images", "images", "--num_workers", "0", "--output"]
    outcome = mlcl(*common, "o.csv")
    assert outcome.status == 1 and "'a;b'" in outcome.err and ".jsonl" in outcome.err
    assert mlcl(*common, "o.jsonl").status == 0
    assert "a;b" in json.loads(Path("o.jsonl").read_text())["scores"]


def test_scores_that_are_not_numbers(mlcl, trained, tmp_path, monkeypatch):
    write_images(tmp_path / "images", 1)
    monkeypatch.setattr(Model, "probabilities", lambda self, logits: logits * torch.nan)
    outcome = mlcl("predict", "--ckpt_path", trained, "--images", "images", "--output", "o.csv", "--num_workers", "0")
    assert outcome.status == 1 and "00000.jpg" in outcome.err and "--precision" in outcome.err
    assert not [*Path().glob("o.csv*")]


def test_an_interrupted_one_leaves_what_it_has(mlcl, trained, tmp_path, monkeypatch):
    write_images(tmp_path / "images", 8)
    done = []

    def text(self, row):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(row)
        return original(self, row)

    original = writers.CSVWriter.text
    monkeypatch.setattr(writers.CSVWriter, "text", text)
    outcome = mlcl("predict", "--ckpt_path", trained, "--images", "images", "--output", "out.csv", "--batch_size", "2",
                   "--num_workers", "0", "--accelerator", "cpu")  # fmt: skip
    assert outcome.status == 130 and "mlcl: interrupted" in outcome.err
    assert not Path("out.csv").exists()
    assert len(rows_of(Path("out.csv.part-1-of-1"))) == 4  # whole batches
    assert "what was predicted so far is in out.csv.part-1-of-1, and the same command goes on" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_one_that_is_told_to_stop_leaves_what_it_has(trained, tmp_path, devices):
    write_images(tmp_path / "images", 300)
    output = f"out.csv.part-1-of-{devices}"
    end = live(["predict", "--ckpt_path", trained, "--images", "images", "--output", "out.csv", "--batch_size", "1",
                "--num_workers", "1", "--accelerator", "cpu", "--devices", str(devices)],
               tmp_path, lambda *_: len(lines_of(tmp_path / f"{output}.log")) > 5, signal.SIGTERM)  # fmt: skip
    # Not all there is: a loader's process whose picture is not fetched any more may show a traceback of Python's.
    lines = [line for line in end.err.splitlines() if line.startswith(("what was", "mlcl: "))]
    assert end.status == 143 and len(lines) == 2 and f"{os.sep}mlcl{os.sep}" not in end.err, end.err
    assert f"what was predicted so far is in {output}" in lines[0] and lines[1] == "mlcl: stopped by SIGTERM"
    assert (tmp_path / output).is_file() and not (tmp_path / "out.csv").exists()


def test_which_files_are_images(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a.jpeg", "notes.txt", "c.jpg/inside.webp", "d.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    names = [os.path.relpath(path, tmp_path) for path in find_images([str(tmp_path)])]
    assert names == ["a.jpeg", "b/1.jpg", "b/2.PNG", "broken.jpg", "c.jpg/inside.webp"]
    # each once, however it is spelled; of what a glob matches, the images
    assert find_images([f"{tmp_path}/b/*", f"{tmp_path}/./b/", f"{tmp_path}/b/../b", f"{tmp_path}/notes.txt"]) == [
        f"{tmp_path}/b/1.jpg", f"{tmp_path}/b/2.PNG", f"{tmp_path}/notes.txt",
    ]  # fmt: skip
    assert len(find_images([f"{tmp_path}/**/*.jp*g"])) >= 3
    for pattern in ("*.tiff", "*.txt"):
        with pytest.raises(MlclError, match="no image there matches"):
            find_images([f"{tmp_path}/{pattern}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MlclError, match="no image in there"):
        find_images([str(tmp_path / "b"), str(tmp_path / "empty")])


def parse_as_the_devkit(text: str) -> tuple[list[str], list[float]]:
    """As VOCevalcls of the devkit: textread(file, '%s %f')."""
    pairs = [line.split(" ") for line in text.split("\n")[:-1]]
    assert all(len(pair) == 2 for pair in pairs)
    return [name for name, _ in pairs], [float(value) for _, value in pairs]


def test_voc2012_files(mlcl, voc_model, tmp_path):
    ids = [f"2008_{number:06}" for number in range(30)]
    devkit = tmp_path / "VOCdevkit" / "VOC2012"
    write_images(devkit / "JPEGImages", 35)
    for number, path in enumerate(sorted((devkit / "JPEGImages").iterdir())):
        path.rename(path.with_name(f"2008_{number:06}.jpg"))  # five more than the test set
    (devkit / "ImageSets" / "Main").mkdir(parents=True)
    (devkit / "ImageSets" / "Main" / "test.txt").write_text("\n".join(ids) + "\n")
    outcome = mlcl("predict", "--ckpt_path", voc_model, "--writer", "voc2012", "--images", tmp_path,
                   "--output", "submission", "--num_workers", "0")  # fmt: skip
    assert outcome.status == 0, outcome.err
    model = load(voc_model, "cpu")
    scores = model([devkit / "JPEGImages" / f"{name}.jpg" for name in ids]).scores
    with tarfile.open("submission/results.tar.gz") as archive:
        files = {entry.name: entry for entry in archive if entry.isfile()}
        assert set(files) == {f"results/VOC2012/Main/comp2_cls_test_{name}.txt" for name in VOC_CLASSES}
        for name in VOC_CLASSES:
            entry = files[f"results/VOC2012/Main/comp2_cls_test_{name}.txt"]
            text = io.TextIOWrapper(archive.extractfile(entry), "utf-8").read()
            assert text == Path("submission", entry.name).read_text()
            found, confidences = parse_as_the_devkit(text)
            assert sorted(found) == ids and len(set(found)) == 30
            expected = scores[:, model.classes.index(name)].numpy()
            np.testing.assert_allclose(confidences, expected, atol=1e-6)
            assert entry.uname == "" and entry.uid == 0


def test_voc2012_refusals(mlcl, trained, voc_model, tmp_path):
    write_images(tmp_path / "images", 3)
    common = ["--writer", "voc2012", "--images", "images", "--output", "out", "--num_workers", "0"]
    outcome = mlcl("predict", "--ckpt_path", trained, *common)
    assert outcome.status == 1 and "the model does not know aeroplane" in outcome.err
    (tmp_path / "images" / "00001.png").write_bytes((tmp_path / "images" / "00001.jpg").read_bytes())
    outcome = mlcl("predict", "--ckpt_path", voc_model, *common)
    assert outcome.status == 1 and "the id '00001' must be there once" in outcome.err
    (tmp_path / "images" / "00001.png").unlink()
    (tmp_path / "images" / "00002.jpg").write_text("no")
    outcome = mlcl("predict", "--ckpt_path", voc_model, *common)
    assert (
        outcome.status == 1
        and "1 of the images could not be read, so out/results.tar.gz was not written" in outcome.err
    )
    assert not Path("out/results.tar.gz").exists()


def test_pictures_that_are_not_as_in_the_training_are_named_with_the_option(mlcl, trained, tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)).save("images/deep.png")
    common = ["predict", "--ckpt_path", trained, "--images", "images", "--output", "o.csv", "--num_workers", "0"]
    outcome = mlcl(*common)
    assert outcome.status == 1 and "deep.png: whole numbers from 0 to 899" in outcome.err
    assert "; --white says what is white" in outcome.err and "--data." not in outcome.err
    assert mlcl(*common, "--white", "1023").status == 0
    outcome = mlcl(*common, "--white", "1023", "--max_pixels", "899")
    assert outcome.status == 1 and "Image size (900 pixels) exceeds limit of 899 pixels" in outcome.err
    assert "--max_pixels N" in outcome.err and "--data." not in outcome.err
    assert mlcl(*common, "--white", "1023", "--max_pixels", "900").status == 0
    outcome = mlcl(*common, "--max_pixels", "0")
    assert outcome.status == 2 and "--max_pixels: expected a whole number of at least 1" in outcome.err


def test_memory_does_not_grow_with_the_folder(mlcl, trained, tmp_path, monkeypatch):
    """No more than a batch of images is read before their rows are written."""
    write_images(tmp_path / "images", 9)
    waiting, most = [], []
    read, text = unlabelled.read_image, writers.CSVWriter.text
    monkeypatch.setattr(unlabelled, "read_image", lambda path, **how: waiting.append(path) or read(path, **how))
    monkeypatch.setattr(
        writers.CSVWriter, "text", lambda self, row: most.append(len(waiting)) or (waiting.pop(0) and text(self, row))
    )
    arguments = ["--images", "images", "--output", "o.csv", "--num_workers", "0", "--batch_size", "2"]
    assert mlcl("predict", "--ckpt_path", trained, *arguments).status == 0
    assert len(rows_of(Path("o.csv"))) == len(most) == 9 and max(most) == 2


@pytest.mark.parametrize("arguments", [["--devices", "9", "--accelerator", "gpu"], ["--precision", "3-bit"]])
def test_what_lightning_refuses(mlcl, trained, tmp_path, arguments):
    write_images(tmp_path / "images", 1)
    outcome = mlcl("predict", "--ckpt_path", trained, "--images", "images", "--output", "o.csv", *arguments)
    assert outcome.status == 1 and len(outcome.err.strip().splitlines()) == 1
    assert "--accelerator, --devices or --precision" in outcome.err


def test_a_list_of_files(mlcl, trained, tmp_path, monkeypatch):
    """One path a line, relative to the current folder wherever the list lies, beside other arguments; each once."""
    paths = write_images(tmp_path / "images", 4)
    write_images(tmp_path / "other" / "more", 2)
    (tmp_path / "images" / "a b.jpg").write_bytes(paths[0].read_bytes())
    (tmp_path / "@odd.jpg").write_bytes(paths[0].read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = ["", "images/00002.jpg\r", f"  {paths[0]}  ", "images/a b.jpg", " \t", "~/other/more", "images/*1.jpg"]
    (tmp_path / "other" / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    arguments = ["--images", "@other/list.txt", "images/00002.jpg", "@odd.jpg", "--num_workers", "0"]
    outcome = mlcl("predict", "--ckpt_path", trained, *arguments, "--output", "o.csv")
    assert outcome.status == 0, outcome.err
    more = [str(tmp_path / "other" / "more" / f"0000{n}.jpg") for n in range(2)]
    expected = ["images/00002.jpg", str(paths[0]), "images/a b.jpg", *more, "images/00001.jpg", "'@odd.jpg"]
    assert [row["path"] for row in rows_of(Path("o.csv"))] == expected


def test_scores_that_six_decimals_cannot_show(tmp_path):
    row = writers.Row("a.jpg", ["cat"], [1.234e-9, 0.9999999, 0.0], {})
    for name in ("o.csv", "o.jsonl"):
        writer = writers.make(tmp_path / name, ["cat", "dog", "cow"], None, None)
        (tmp_path / name).write_text(writer.head() + writer.text(row))
    (line,) = rows_of(tmp_path / "o.csv")
    assert [line[name] for name in ("cat", "dog", "cow")] == ["1.23e-09", "1.000000", "0"]
    assert json.loads((tmp_path / "o.jsonl").read_text())["scores"] == {"cat": 1.23e-9, "dog": 1.0, "cow": 0.0}


@pytest.mark.parametrize(("batch_size", "processes"), [(8, 0), (3, 0), (2, 2), (1, 3)])
def test_as_many_loader_processes_as_there_are_batches_and_none_for_one(
    trained, tmp_path, monkeypatch, batch_size, processes
):
    write_images(tmp_path / "images", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    started = []

    class Loader(DataLoader):
        def __init__(self, *arguments, num_workers, **settings):
            started.append(num_workers)
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(prediction, "DataLoader", Loader)
    model = load(trained, "cpu")
    assert prediction.predict(model, [str(tmp_path / "images")], tmp_path / "o.csv", batch_size=batch_size,
                              num_workers=9, accelerator="cpu") == 0  # fmt: skip
    assert started == [processes] and len(rows_of(tmp_path / "o.csv")) == 3
