"""The recipes of docs/interop.md, run on small files in the forms of annotation tools; the tools are not needed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import REPOSITORY
from support.trees import write_pictures

from mlcl.data.csv_file import CSVDataset

_PAGE = (REPOSITORY / "docs" / "interop.md").read_text()
PYTHON = dict(re.findall(r"^### ([^\n]+)\n(?:(?!###).)*?```py\n(.*?)```", _PAGE, re.MULTILINE | re.DOTALL))


def xml(name, *objects):
    found = "".join(
        f"<object><name>{kind}</name><difficult>{int(unsure)}</difficult></object>" for kind, unsure in objects
    )
    return f"<annotation><filename>{name}</filename>{found}</annotation>"


def cvat(**labels):
    """An entry for each picture, whose name is written without its ending, with ``__`` for a slash."""
    images = (
        f'<image name="{name.replace("__", "/")}.jpg"><tag label="{label}"/></image>' for name, label in labels.items()
    )
    return f"<annotations>{''.join(images)}</annotations>"


def labelme(path, *labels):
    return json.dumps({"imagePath": path, "flags": None, "shapes": [{"label": label} for label in labels]})


FILES = {
    "XML files": {
        "Annotations/a.xml": xml("a.jpg", ("cat", False), ("cat", True), ("hot dog", True)),
        "Annotations/b.xml": xml("b.jpg"),
        "Annotations/c.xml": xml("c.jpg", ("hot dog", False)),
    },
    "CVAT's XML": {
        "annotations.xml": "<annotations><meta><task><labels><label><name>yak</name></label></labels></task></meta>"
        '<image name="images/a.jpg"><tag label="cat"/><box label="hot dog"/></image><image name="b.jpg"/>'
        '<image name="c.jpg"><polygon label="hot dog"/><polygon label="hot dog"/></image></annotations>'
    },
    "LabelMe's JSON": {
        "a.json": json.dumps({"imagePath": "a.jpg", "flags": {"cat": True}, "shapes": [{"label": "hot dog"}]}),
        "b.json": json.dumps({"imagePath": "..\\images\\b.jpg", "flags": {"cat": False}, "shapes": []}),
        "c.json": json.dumps({"imagePath": "c.jpg", "shapes": [{"label": "hot dog"}]}),
    },
    "YOLO": {
        "classes.txt": "cat\nhot dog\n",
        "labels/a.txt": "1 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n",
        "labels/b.txt": "",
        "labels/c.txt": "1 0.5 0.5 0.1 0.1",
    },
}


XML, CVAT, LABELME, YOLO = FILES


def table_of(folder, monkeypatch, title, pictures, files):
    """Class -> codes of the pictures in ``folder``, by the recipe's table as mlcl reads it."""
    for name in pictures:
        write_pictures((folder / name).parent, [Path(name).name])
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    exec(compile(PYTHON[title], title, "exec"), {})
    (table,) = folder.glob("*.csv")
    samples = (data := CSVDataset(csv=table.name, root=str(folder))).read_split("train")
    assert all(path.is_file() for path in samples.paths)
    names = (path.relative_to(folder).as_posix() for path in samples.paths)
    return data.classes, dict(zip(names, samples.targets.tolist(), strict=True))


@pytest.mark.parametrize("title", FILES)
def test_a_recipe_makes_a_table_of_the_files(tmp_path, monkeypatch, title):
    assert set(PYTHON) == set(FILES)
    pictures = [f"images/{name}.jpg" for name in "abc"]
    classes, found = table_of(tmp_path, monkeypatch, title, pictures, FILES[title])
    unsure = -1 if title == XML else 1  # nothing but a difficult hot dog
    assert classes == ("cat", "hot dog")
    assert found == dict(zip(pictures, ([1, unsure], [0, 0], [0, 1]), strict=True))


TWO = {"a/0.jpg": [1, 0], "b/0.jpg": [0, 1]}  # of cat and dog
SPLITS = {"images/train/0.jpg": [1, 0], "images/val/0.jpg": [0, 1]}
NAMED = {"classes.txt": "cat\ndog\n"}
ONE = {"a.jpg": [0, 1]}
# What a recipe must read: its files, and the codes of each picture.
READ = {
    "CVAT, equal names": (CVAT, {"labels.xml": cvat(a__0="cat", b__0="dog")}, TWO),
    "CVAT, equal names in images": (
        CVAT,
        {"labels.xml": cvat(a__0="cat", b__0="dog")},
        {f"images/{name}": codes for name, codes in TWO.items()},
    ),
    "LabelMe, equal names": (
        LABELME,
        {f"{k}/0.json": labelme("0.jpg", n) for k, n in (("a", "cat"), ("b", "dog"))},
        TWO,
    ),
    "LabelMe, in a folder beside": (
        LABELME,
        {f"json/{k}.json": labelme(f"..\\{k}\\0.jpg", n) for k, n in (("a", "cat"), ("b", "dog"))},
        TWO,
    ),
    "YOLO, equal names": (YOLO, NAMED | {"labels/train/0.txt": "0 1 1 1 1", "labels/val/0.txt": "1 1 1 1 1"}, SPLITS),
    "YOLO, equal names beside": (YOLO, NAMED | {"a/0.txt": "0 1 1 1 1", "b/0.txt": "1 1 1 1 1"}, TWO),
    "YOLO, folders of splits": (
        YOLO,
        NAMED | {"train/labels/0.txt": "0 1 1 1 1", "val/labels/0.TXT": "1 1 1 1 1"},
        {"train/images/0.jpg": [1, 0], "val/images/0.jpg": [0, 1]},
    ),
    "YOLO, one picture without a text": (
        YOLO,
        NAMED | {"labels/val/0.txt": "1 1 1 1 1"},
        {"images/train/0.jpg": [0, 0], "images/val/0.jpg": [0, 1]},
    ),
    "YOLO, names by their numbers": (YOLO, {"data.yaml": "names: {0: cat, 1: dog}", "a.txt": "1 1 1 1 1"}, ONE),
    "YOLO, dataset.yaml": (
        YOLO,
        {"dataset.yaml": "names: [cat, dog]", "hyp.yaml": "lr: 1", "a.txt": "1 1 1 1 1"},
        ONE,
    ),
    "YOLO, TXT, blank lines, BOM": (
        YOLO,
        {"classes.txt": "\ufeffcat\ndog\n", "A.TXT": "\ufeff1 1 1 1 1\n\n \n"},
        {"a.jpg": [0, 1]},
    ),
    "YOLO, macOS": (YOLO, NAMED | {"a.txt": "1 1 1 1 1", "__MACOSX/._a.txt": "0", ".x/classes.txt": "no"}, ONE),
    "YOLO, Darknet's lists": (YOLO, {"obj.names": "cat\ndog", "train.txt": "data/a.jpg", "a.txt": "1 1 1 1 1"}, ONE),
    "YOLO, other endings": (
        YOLO,
        NAMED | {"a.txt": "1 1 1 1 1", "b.txt": "0 1 1 1 1"},
        {"a.webp": [0, 1], "b.bmp": [1, 0]},
    ),
    "XML, Windows": (
        XML,
        {"1.xml": xml("C:\\x\\a.jpg", ("cat", 0)), "2.xml": xml("b.jpg", ("dog", 0))},
        {"a.jpg": [1, 0], "b.jpg": [0, 1]},
    ),
    "XML, endings": (
        XML,
        {"1.xml": xml("A.b", ("cat", 0)), "2.xml": xml("a.jpg", ("dog", 0)), "3.xml": xml("c.png")},
        {"a.b.JPG": [1, 0], "a.JPG": [0, 1], "c.jpg": [0, 0]},
    ),
    "XML, no name": (XML, {"a.xml": xml("", ("cat", 0), ("dog", 0))}, {"a.jpg": [1, 1]}),
    "XML, spaces": (XML, {"a.xml": xml("a.jpg", (" cat ", 0), ("dog", 1)).replace(">1<", "> 1 <")}, {"a.jpg": [1, -1]}),
}


@pytest.mark.parametrize("case", READ)
def test_a_recipe_reads(tmp_path, monkeypatch, case):
    title, files, expected = READ[case]
    classes, found = table_of(tmp_path, monkeypatch, title, expected, files)
    assert classes == ("cat", "dog") and found == expected


SEMICOLON = {
    XML: {"a.xml": xml("a.jpg", ("bolt; M4", 0))},
    CVAT: {"a.xml": cvat(a="bolt; M4")},
    LABELME: {"a.json": labelme("a.jpg", "bolt; M4")},
    YOLO: {"classes.txt": "bolt; M4", "a.txt": "0 1 1 1 1"},
}


@pytest.mark.parametrize("title", FILES)
def test_a_class_may_hold_a_semicolon(tmp_path, monkeypatch, title):
    assert table_of(tmp_path, monkeypatch, title, ["a.jpg"], SEMICOLON[title]) == (("bolt; M4",), {"a.jpg": [1]})


LABEL = {"a.txt": "0 1 1 1 1"}
# What it must refuse: its pictures, its files, and words of the line.
REFUSED = {
    "XML, two pictures": (XML, TWO, {"a/0.xml": xml("0.jpg"), "b/0.xml": xml("0.jpg")}, "one folder at a time"),
    "XML, two files": (XML, ONE, {"1.xml": xml("a.jpg"), "2.xml": xml("a.jpg")}, "2.xml: two pictures or XML files"),
    "XML, no picture": (XML, ONE, {"b.xml": xml("b.jpg")}, "b.xml: no picture b.jpg"),
    "CVAT, two pictures": (CVAT, TWO, {"a.xml": cvat(**{"0": "cat"})}, "two pictures"),
    "CVAT, two entries": (CVAT, ONE, {"1.xml": cvat(a="cat"), "2.xml": cvat(a="dog")}, "two pictures or entries"),
    "CVAT, no picture": (CVAT, {"a/0.jpg": 0}, {"1.xml": cvat(b__0="cat")}, "no picture b/0.jpg"),
    "LabelMe, two pictures": (LABELME, TWO, {"0.json": labelme("0.jpg")}, "two pictures"),
    "LabelMe, two files": (
        LABELME,
        ONE,
        {"1.json": labelme("a.jpg"), "2.json": labelme("a.jpg")},
        "two pictures or JSON files",
    ),
    "LabelMe, no picture": (LABELME, {"b/0.jpg": 0}, {"a/0.json": labelme("0.jpg", "cat")}, "no picture a/0.jpg"),
    "LabelMe, another file": (LABELME, ONE, {"notes.json": "{}"}, "notes.json: not a file of LabelMe"),
    "YOLO, two pictures": (YOLO, ["a.jpg", "a.png"], NAMED | LABEL, "not one picture with its text: a.jpg, a.png"),
    "YOLO, two texts": (YOLO, ONE, NAMED | LABEL | {"labels/a.txt": "1 1 1 1 1"}, "not one picture with its text"),
    "YOLO, text without a picture": (YOLO, ["pictures/a.jpg"], NAMED | {"labels/a.txt": "0 1 1 1 1"}, "labels/a.txt"),
    "YOLO, another name": (YOLO, ONE, NAMED | {"labels/x-a.txt": "0 1 1 1 1"}, "labels/x-a.txt"),
    "YOLO, two lists": (YOLO, ONE, NAMED | LABEL | {"b/classes.txt": "dog\ncat"}, "one list of names"),
    "YOLO, no list": (YOLO, ONE, LABEL, "one list of names"),
    "YOLO, names are a text": (YOLO, ONE, LABEL | {"data.yaml": "names: cat"}, "one list of names"),
    "YOLO, names are numbers": (YOLO, ONE, LABEL | {"data.yaml": "names: [7, 8]"}, "one list of names"),
    "YOLO, names are a number": (YOLO, ONE, LABEL | {"data.yaml": "names: 7"}, "one list of names"),
    "YOLO, a number too high": (YOLO, ONE, NAMED | {"a.txt": "2 1 1 1 1"}, "a.txt: no class has the number 2"),
    "YOLO, a negative number": (YOLO, ONE, NAMED | {"a.txt": "-1 1 1 1 1"}, "a.txt: no class has the number -1"),
    "YOLO, a class without a name": (YOLO, ONE, {"classes.txt": "cat\n\ndog", "a.txt": "1 1 1 1 1"}, "the number 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_recipe_refuses_what_is_ambiguous(tmp_path, monkeypatch, case):
    title, pictures, files, words = REFUSED[case]
    with pytest.raises(SystemExit) as refused:
        table_of(tmp_path, monkeypatch, title, pictures, files)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert not list(tmp_path.glob("*.csv"))


def test_a_recipe_runs_as_the_file_that_the_page_names(tmp_path):
    for k, title in enumerate((XML, CVAT, LABELME, YOLO)):
        name = re.findall(r"`(\w+_to_csv\.py)`", _PAGE)[k]
        folder = tmp_path / name
        write_pictures(folder, ["a.jpg"])
        for file, text in SEMICOLON[title].items():
            (folder / file).write_text(text)
        (folder / name).write_text(PYTHON[title])
        subprocess.run([sys.executable, name], cwd=folder, check=True)
        assert len(list(folder.glob("*.csv"))) == 1


def test_the_tables_of_folders_are_those_of_splits(tmp_path, monkeypatch):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        files = NAMED | {"labels/0.txt": "0 1 1 1 1" if split == "train" else "1 1 1 1 1"}
        table_of(tmp_path / split, monkeypatch, YOLO, ["images/0.jpg"], files)
    data = CSVDataset(csv="train/yolo.csv", val_csv="val/yolo.csv", root=str(tmp_path))
    for split, codes in (("train", [1, 0]), ("val", [0, 1])):
        samples = data.read_split(split)
        assert samples.paths == [tmp_path / split / "images" / "0.jpg"] and samples.targets.tolist() == [codes]
