import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from mlcl.data import demo as scenes
from mlcl.data.demo import CLASSES, write_scenes
from mlcl.errors import MlclError

WANTED = {"train": 200, "val": 8, "size": 48}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes") / "demo"
    write_scenes(root, **WANTED)
    return root


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("split", "first"), [("train", 1), ("val", 1_000_001)])
def test_a_split_has_the_layout_and_the_fields_of_coco(tree, split, first):
    content = json.loads((tree / f"annotations/instances_{split}2014.json").read_text())
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert [image["id"] for image in content["images"]] == list(range(first, first + WANTED[split]))
    ids = {category["name"]: category["id"] for category in content["categories"]}
    assert (tuple(ids), [*ids.values()]) == (CLASSES, [1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14])  # with holes
    assert len(list((tree / f"{split}2014").iterdir())) == WANTED[split]
    for number, image in enumerate(content["images"], 1):
        path = tree / f"{split}2014" / f"COCO_{split}2014_{number:012d}.jpg"
        with Image.open(path, formats=["JPEG"]) as picture:
            assert (image["file_name"], image["width"], image["height"]) == (path.name, *picture.size)
    assert len({entry["id"] for entry in content["annotations"]}) == len(content["annotations"])
    for entry in content["annotations"]:
        (x, y, w, h), image = entry["bbox"], content["images"][entry["image_id"] - first]
        assert 0 <= x <= image["width"] - w and 0 <= y <= image["height"] - h and 0 < entry["area"] <= w * h
        assert entry["iscrowd"] == 0 and entry["segmentation"]["size"] == [image["height"], image["width"]]
        pixels = [n % 2 for n, run in enumerate(entry["segmentation"]["counts"]) for _ in range(run)]
        rows, columns = np.nonzero(np.reshape(pixels, (image["width"], image["height"])).T)
        assert len(rows) == entry["area"]
        assert [columns.min(), rows.min(), columns.max() - x + 1, rows.max() - y + 1] == [x, y, w, h]


def test_classes_are_as_frequent_and_as_entangled_as_promised(tree):
    content = json.loads((tree / "annotations/instances_train2014.json").read_text())
    rows, columns = ({entry["id"]: k for k, entry in enumerate(content[key])} for key in ("images", "categories"))
    labels = np.zeros((len(rows), len(columns)))
    for entry in content["annotations"]:
        labels[rows[entry["image_id"]], columns[entry["category_id"]]] = 1
    share, moon, star = labels.mean(axis=0), CLASSES.index("moon"), CLASSES.index("star")
    assert 0.28 < share.max() < 0.42 and 0.02 < share.min() < 0.1 and 2.2 < labels.sum(axis=1).mean() < 2.9
    assert 0 < (labels.sum(axis=1) == 0).mean() < 0.08  # pictures of nothing
    assert (labels[:, moon] * labels[:, star]).mean() > 1.3 * share[moon] * share[star]


def test_a_picture_depends_on_seed_split_and_number_only(tree, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        write_scenes(tmp_path / name, train=5, val=8, size=48, seed=seed)
    one, other, whole = contents(tmp_path / "one"), contents(tmp_path / "other"), contents(tree)
    pictures = [path for path in one if path.endswith(".jpg")]
    assert one == contents(tmp_path / "two") and all(one[path] == whole[path] for path in pictures)
    assert len({some[path] for some in (one, other) for path in pictures}) == 26


@pytest.mark.parametrize(("x", "seen"), [(32, ["cookie"]), (60, ["ball", "cookie"])])
def test_what_is_hidden_or_cut_off_has_no_label(x, seen):
    scene = scenes._Scene(96, 64, np.random.default_rng(0))
    for name, left, diameter in (("ball", 32, 14), ("star", 98, 16), ("cookie", x, 28)):  # most of the star is outside
        scene.add(name, left, 32, diameter)
    assert [name for name, *_ in scene.objects()] == seen


def test_a_second_call_draws_nothing_and_another_request_is_refused(tree, monkeypatch):
    monkeypatch.delattr(scenes, "_compose")
    write_scenes(tree, **WANTED)
    with pytest.raises(MlclError, match=r'"seed": 0.*asked for.*"seed": 3.*choose another folder or delete it'):
        write_scenes(tree, **WANTED, seed=3)
    with pytest.raises(MlclError, match="something else"):
        write_scenes(tree.parent)
    with pytest.raises(MlclError, match=r"data\.train_images 0.*out of range"):
        write_scenes(tree, train=0)


def test_an_interrupted_run_leaves_nothing_and_a_late_one_yields(tree, tmp_path, monkeypatch):
    def interrupt(*_):
        assert any(tmp_path.rglob("*.jpg"))  # it had begun
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scenes._Scene, "objects", interrupt)
        write_scenes(tmp_path / "demo", **WANTED)
    assert not any(tmp_path.iterdir())
    fill = partial(shutil.copytree, tree, dirs_exist_ok=True)
    monkeypatch.setattr(scenes, "_write_split", lambda mine, *_: (fill(mine), fill(tmp_path / "demo")))
    write_scenes(tmp_path / "demo", **WANTED)
    assert contents(tmp_path) == {f"demo/{path}": data for path, data in contents(tree).items()}


def test_another_year_is_refused(tmp_path):
    with pytest.raises(MlclError, match=r"data\.year"):
        scenes.Demo(str(tmp_path), year=2017)
