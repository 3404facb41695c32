"""The recipes of docs/interop.md, run on small files in the forms of annotation tools; the tools are not needed."""

import json
import re

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


FILES = {
    "XML files": {
        "Annotations/a.xml": xml("a.jpg", ("cat", False), ("cat", True), ("hot dog", True)),
        "Annotations/b.xml": xml("b.jpg"),
        "Annotations/c.xml": xml("c.jpg", ("hot dog", False)),
    },
    "CVAT's XML": {
        "annotations.xml": "<annotations><meta><task><labels><label><name>yak</name></label></labels></task></meta>"
        '<image name="sub/a.jpg"><tag label="cat"/><box label="hot dog"/></image><image name="b.jpg"/>'
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


@pytest.mark.parametrize("title", FILES)
def test_a_recipe_makes_a_table_of_the_files(tmp_path, monkeypatch, title):
    assert set(PYTHON) == set(FILES)
    write_pictures(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg"])
    for name, text in FILES[title].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[title], title, "exec"), {})
    (table,) = tmp_path.glob("*.csv")
    column = None if title == "XML files" else "labels"
    samples = (data := CSVDataset(csv=table.name, root=str(tmp_path), labels_column=column)).read_split("train")
    found = {path.name: row for path, row in zip(samples.paths, samples.targets.tolist(), strict=True)}
    unsure = -1 if title == "XML files" else 1  # nothing but a difficult hot dog
    assert data.classes == ("cat", "hot dog")
    assert found == {"a.jpg": [1, unsure], "b.jpg": [0, 0], "c.jpg": [0, 1]}
    assert all(path.is_file() for path in samples.paths)
