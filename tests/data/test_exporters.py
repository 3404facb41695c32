"""The table of docs/interop.md: annotation tools' exporters, each in a Python of its own, and what is read of them."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.annotated_project import CLASSES, project, truth, write_project
from support.running import REPOSITORY

from mlcl.data.coco_json import COCOJSON
from mlcl.data.csv_file import CSVDataset

pytestmark = [pytest.mark.upstream, pytest.mark.timeout(3600)]
SCRIPTS = REPOSITORY / "tests" / "support" / "exporters"
TOOLS = {
    "Label Studio": ("label_studio", "label-studio-sdk==2.1.2"),
    "Datumaro": ("datumaro", "datumaro==1.13.12"),
    "supervision": ("supervision", "supervision==0.31.2"),
    "globox": ("globox", "globox==2.9.0"),
    "PyLabel": ("pylabel", "pylabel==0.1.55", "pandas<3"),  # with pandas 3 it fails at pictures without a box
    "labelme2coco": ("labelme2coco", "labelme2coco==0.2.6"),
    "V7": ("darwin", "darwin-py==3.6.3"),
}
WITHOUT = [image["name"] for image in project() if not image["labels"]]


class Case(NamedTuple):
    """Where a script leaves an export, and what differs from the project once it is read."""

    folder: str
    pictures: str = "images"  # where the user puts them; nothing if the export has them
    refused: str = ""  # words of the one line
    difficult: int = 1  # what a class with nothing but difficult objects is
    missing: tuple[str, ...] = ()  # pictures
    unknown: tuple[str, ...] = ()


# The even ones of a project with both: what is annotated first comes first.
CHOICE_FIRST = tuple(image["name"] for k, image in enumerate(project(), 1) if k % 2 == 0 or not image["labels"])
CASES = {
    ("Label Studio", "CSV, choices"): Case("choices/csv", unknown=("p39.jpg",)),
    ("Label Studio", "COCO, boxes"): Case("boxes/coco"),
    ("Label Studio", "COCO, choices"): Case("choices/coco", refused="labels of whole images belong into a table"),
    ("Label Studio", "YOLO, boxes"): Case("boxes/yolo"),
    ("Label Studio", "VOC, boxes"): Case("boxes/voc", missing=tuple(WITHOUT)),
    ("Label Studio", "VOC, boxes and choices"): Case("choices_boxes/voc", missing=CHOICE_FIRST),
    ("Label Studio", "JSON_MIN"): Case("choices/json_min", refused="is not a COCO annotation file"),
    ("Datumaro", "coco, labels"): Case("labels/coco", ""),
    ("Datumaro", "coco, boxes"): Case("boxes/coco", ""),
    ("Datumaro", "coco, labels and boxes"): Case("labels_boxes/coco", "", refused="labels_train.json may both be"),
    ("Datumaro", "voc, labels"): Case("labels/voc", "", refused="has background, hot dog, owl, but no list of"),
    ("Datumaro", "voc, boxes"): Case("boxes/voc", "", difficult=-1, missing=tuple(WITHOUT)),
    ("Datumaro", "cvat, labels"): Case("labels/cvat", ""),
    ("Datumaro", "open_images, labels"): Case("labels/open_images", "", refused="'cat' is no id of a class"),
    ("Datumaro", "imagenet_txt, labels"): Case("labels/imagenet_txt", "", refused="has no column 'image'"),
    ("Datumaro", "yolo, boxes"): Case("boxes/yolo", ""),
    ("supervision", "as_coco"): Case("coco", ""),
    ("supervision", "as_pascal_voc"): Case("voc", ""),
    ("supervision", "as_yolo"): Case("yolo", ""),
    ("globox", "save_coco"): Case("coco"),
    ("globox", "save_pascal_voc"): Case("voc"),
    ("globox", "save_cvat"): Case("cvat"),
    ("globox", "save_labelme"): Case("labelme"),
    ("PyLabel", "ExportToCoco"): Case("coco"),
    ("PyLabel", "ExportToVoc"): Case("voc"),
    ("labelme2coco", "COCO"): Case("coco", missing=("p39.jpg",)),
    ("V7", "coco, tags"): Case("tags/coco"),
    ("V7", "coco, tags and boxes"): Case("tags_boxes/coco"),
    ("V7", "pascalvoc, boxes"): Case("boxes/pascalvoc"),
    ("V7", "cvat, boxes"): Case("boxes/cvat"),
}
# How a user would try an export that is refused.
TRIED = {
    "COCO, choices": "--data COCOJSON",
    "JSON_MIN": "--data COCOJSON",
    "coco, labels and boxes": "--data COCOJSON",
    "voc, labels": "--data VOC2007 --data.train_split train --data.test_split train",
    "open_images, labels": "--data OpenImages",
    "imagenet_txt, labels": "--data CSVDataset --data.csv train.txt",
}
PAGE = (REPOSITORY / "docs" / "interop.md").read_text().partition("## Annotation tools")[2].partition("\n## ")[0]
READ_WITH = {
    (re.sub(r" \(.*\)| [0-9.]+$", "", cells[0]), cells[1]): cells[3]
    for line in PAGE.splitlines()
    if line.startswith("| ") and (cells := [cell.strip() for cell in line.strip("| ").split(" | ")])[0] != "tool"
}
RECIPES = dict(re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder with all that a tool exports; each tool is installed, and run, once. MLCL_EXPORTERS keeps them."""
    kept = os.environ.get("MLCL_EXPORTERS")
    environments = Path(kept) if kept else tmp_path_factory.mktemp("environments")
    source = tmp_path_factory.mktemp("source")
    write_project(source)
    folders: dict[str, Path] = {}

    def folder_of(tool):
        name, *packages = TOOLS[tool]
        if tool not in folders:
            python = environments / name / "bin" / "python"
            if not python.exists():
                subprocess.run([sys.executable, "-m", "venv", environments / name], check=True)
                install = [python, "-m", "pip", "install", "--quiet", *packages]
                done = subprocess.run(install, capture_output=True, text=True, check=False)
                if done.returncode:
                    shutil.rmtree(environments / name)
                    pytest.skip(f"{packages[0]} cannot be installed here: {done.stderr.strip()[-200:]}")
            folders[tool] = tmp_path_factory.mktemp(name)
            clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
            script = [python, SCRIPTS / f"with_{name}.py", source, folders[tool]]
            done = subprocess.run(script, capture_output=True, text=True, check=False, env=clean)
            assert done.returncode == 0, done.stderr[-3000:]
        return source, folders[tool]

    return folder_of


def test_the_page_and_the_cases_are_the_same():
    assert list(READ_WITH) == list(CASES)
    assert set(TRIED) == {format for (_, format), case in CASES.items() if case.refused}


def command_of(how, root, monkeypatch):
    """The words of the command in a cell of the page, after its recipe has been run."""
    if recipe := re.match(r"\[(.+)\]", how):
        (source,), (line,) = (
            re.findall(rf"```{kind}\n(.*?)```", RECIPES[recipe[1]], re.DOTALL) for kind in ("py", "sh")
        )
        monkeypatch.chdir(root)
        exec(compile(source, recipe[1], "exec"), {})
    else:
        line = re.search(r"`(mlcl check .+)`", how)[1]
    return [str(root) if word == "DIR" else word for word in shlex.split(line)[1:]]


def targets_of(words):
    """Of each picture what is not absent: name -> code."""
    options = {word.removeprefix("--data."): words[k + 1] for k, word in enumerate(words) if word.startswith("--data.")}
    options.pop("val_fraction")
    data = {"COCOJSON": COCOJSON, "CSVDataset": CSVDataset}[words[words.index("--data") + 1]](**options)
    samples = data.read_split("train")
    assert all(path.is_file() for path in samples.paths)
    return data.classes, {
        path.name: {data.classes[k]: int(code) for k, code in enumerate(row) if code}
        for path, row in zip(samples.paths, samples.targets, strict=True)
    }


@pytest.mark.parametrize("tool, format", [pytest.param(*key, id=", ".join(key)) for key in CASES])
def test_an_export_is_read_as_it_was_meant_or_refused(exported, mlcl, tmp_path, monkeypatch, tool, format):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    case, (source, folder) = CASES[tool, format], exported(tool)
    root = tmp_path / "DIR"
    shutil.copytree(folder / case.folder, root)
    if case.pictures:
        shutil.rmtree(root / case.pictures, ignore_errors=True)
        shutil.copytree(source / "pictures", root / case.pictures)
    how = READ_WITH[tool, format]
    if case.refused:
        line = [*TRIED[format].split(), "--data.root", root]
        outcome = mlcl("check", *line)
        assert outcome.status == 1 and case.refused in outcome.err and outcome.err.count("\n") == 1, outcome.err
        if "`" not in how:
            return
    words = command_of(how, root, monkeypatch)
    outcome = mlcl(*words, "--data.num_workers", "0")
    assert outcome.status == 0, outcome.out + outcome.err
    classes, found = targets_of(words)
    expected = {name: codes for name, codes in truth(case.difficult).items() if name not in case.missing}
    assert found == expected | {name: dict.fromkeys(classes, -1) for name in case.unknown}
    assert set(classes) in (set(CLASSES), {*CLASSES} - {"owl"})


def test_what_label_studio_lists_of_choices(exported):
    """Without the pictures at hand only those that have no label: the form has no place for the others."""
    import json

    _, folder = exported("Label Studio")
    without, with_pictures = (
        {Path(image["file_name"]).name for image in json.loads(file.read_text())["images"]}
        for file in (folder / "choices" / name / "result.json" for name in ("coco", "coco_with_images"))
    )
    assert sorted(without) == WITHOUT and len(with_pictures) == len(project())


def test_folders_of_classes_hold_one_label(exported):
    _, folder = exported("supervision")
    assert sorted(path.name for path in (folder / "folders" / "dog").iterdir()) == [
        image["name"] for image in project() if image["labels"][:1] == ["dog"]
    ]
    _, folder = exported("Datumaro")
    copies = [path.name for path in (folder / "labels" / "imagenet").rglob("*.jpg")]
    assert len(copies) == sum(max(1, len(image["labels"])) for image in project())


def test_datumaros_lists_of_classes_leave_out_pictures_without_a_label(exported):
    _, folder = exported("Datumaro")
    lists = folder / "labels" / "voc" / "ImageSets" / "Main"
    with (lists / "cat_train.txt").open() as rows:
        listed = {row[0] for row in csv.reader(rows, delimiter=" ")}
    assert listed == {Path(image["name"]).stem for image in project() if image["labels"]}
    assert len((lists / "train.txt").read_text().split()) == len(project())
