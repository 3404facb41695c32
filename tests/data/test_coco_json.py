import json
import os
import shutil

import numpy as np
import pytest
from support.object_trees import (
    CLASSES,
    TEST,
    TRAIN,
    VAL,
    export,
    write_cvat,
    write_fiftyone,
    write_json,
    write_label_studio,
    write_roboflow,
)
from support.trees import write_pictures

from mlcl.data.coco_file import area_of
from mlcl.data.coco_json import COCOJSON
from mlcl.errors import MlclError

SPLITS = {"train": TRAIN, "val": VAL, "test": TEST}
PLAIN = [(1, "cat", ""), (2, "dog", ""), (5, "emu", "")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def labels(data, split):
    """File name -> present classes, where every other class is absent; each picture must be there."""
    samples = data.read_split(split)
    assert all(path.is_file() for path in samples.paths)
    assert samples.targets.dtype == np.int8 and set(np.unique(samples.targets)) <= {0, 1}
    pairs = zip(samples.paths, samples.targets, strict=True)
    return {path.name: {data.classes[k] for k in np.flatnonzero(row)} for path, row in pairs}


def expected(images):
    return {name.rpartition("/")[2]: set(objects) for name, objects in images.items()}


def one_line(error, *words):
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


def refused(root, *words, **settings):
    with pytest.raises(MlclError) as error:
        COCOJSON(str(root), **settings).read_split("train")
    one_line(error, *words)


# --- The layouts of the exporters


@pytest.mark.parametrize("write", [write_roboflow, write_cvat, lambda root: write_cvat(root, False), write_fiftyone])
def test_the_three_splits_of_an_export_are_found(tmp_path, write):
    data = COCOJSON(str(write(tmp_path / "data")))
    data.prepare_data()
    assert data.classes == CLASSES
    for split, images in SPLITS.items():
        assert labels(data, split) == expected(images)


PREFIXES = ["images/", "images\\", "images\\1/", "..\\..\\media\\upload\\4\\", "C:\\data\\", "/data/local-files/7/", ""]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_label_studio_writes_names_in_many_ways(tmp_path, prefix):
    data = COCOJSON(str(write_label_studio(tmp_path, prefix)))
    assert labels(data, "train") == expected(TRAIN)
    assert data.read_split("val") is None and data.read_split("test") is None
    assert bool(data.notes) == (prefix not in ("images/", "images\\", ""))


def test_one_file_for_all_is_the_training(tmp_path):
    for name, folder in (("labels.json", "data"), ("_annotations.coco.json", ""), ("x/annotations/a.json", "x/images")):
        root = tmp_path / name.replace("/", "_")
        write_json(root / name, export(TRAIN, PLAIN))
        write_pictures(root / folder, TRAIN)
        assert labels(COCOJSON(str(root), train=name if "/" in name else None), "train") == expected(TRAIN)


def test_files_and_folder_by_hand(tmp_path):
    write_json(tmp_path / "mine" / "one.json", export({f"sub/{name}": names for name, names in TRAIN.items()}, PLAIN))
    write_json(tmp_path / "two.json", export(TEST, PLAIN))
    write_pictures(tmp_path / "photos" / "sub", TRAIN)
    write_pictures(tmp_path / "photos", TEST)
    data = COCOJSON(str(tmp_path), train="mine/one.json", test="two.json", images="photos")
    assert labels(data, "train") == expected(TRAIN)
    assert labels(data, "test") == expected(TEST)
    assert data.read_split("val") is None


def test_names_with_folders_of_which_two_end_alike_are_not_mixed(tmp_path):
    images = {"a/1.jpg": ["cat"], "b/1.jpg": ["dog"], "b/2.jpg": []}
    write_json(tmp_path / "result.json", export(images, PLAIN))
    write_pictures(tmp_path / "images", ["1.jpg", "2.jpg"])
    refused(tmp_path, "result.json", "a/1.jpg", "--data.images")
    write_pictures(tmp_path / "images" / "a", ["1.jpg"])
    write_pictures(tmp_path / "images" / "b", ["1.jpg", "2.jpg"])
    samples = COCOJSON(str(tmp_path)).read_split("train")
    names = [path.relative_to(tmp_path / "images").as_posix() for path in samples.paths]
    found = dict(zip(names, samples.targets.tolist(), strict=True))
    assert found == {"a/1.jpg": [1, 0, 0], "b/1.jpg": [0, 1, 0], "b/2.jpg": [0, 0, 0]}


def test_the_folder_with_most_pictures_is_taken_for_all(tmp_path):
    write_cvat(tmp_path)
    write_pictures(tmp_path / "images", ["0.jpg", "1.jpg"])  # others of the same names
    (tmp_path / "images" / "Train" / "0.jpg").unlink()
    data = COCOJSON(str(tmp_path))
    assert {path.parent for path in data.read_split("train").paths} == {tmp_path / "images" / "Train"}
    with pytest.raises(MlclError, match=r"1 of 8 train images are missing, .*Train/0.jpg"):
        data.prepare_data()


def test_datumaro_writes_labels_of_whole_images_into_a_file_of_their_own(tmp_path):
    """Without boxes and areas; beside the boxes neither is taken for the other."""
    for subset, images in (("train", TRAIN), ("val", VAL)):
        content = export(images, PLAIN)
        for entry in content["annotations"]:
            del entry["bbox"], entry["area"], entry["segmentation"]
        write_json(tmp_path / "annotations" / f"labels_{subset}.json", content)
        write_pictures(tmp_path / "images" / subset, images)
    data = COCOJSON(str(tmp_path))
    assert labels(data, "train") == expected(TRAIN) and labels(data, "val") == expected(VAL)
    write_json(tmp_path / "annotations" / "instances_train.json", export({"0.jpg": ["cat"], "1.jpg": []}, PLAIN))
    refused(tmp_path, "instances_train.json and", "labels_train.json may both be the train", "--data.train FILE")
    chosen = COCOJSON(str(tmp_path), train="annotations/labels_train.json")
    assert labels(chosen, "train") == expected(TRAIN)


@pytest.mark.parametrize("boxes", [False, True])
def test_v7_writes_labels_of_whole_images_into_the_images_entries(tmp_path, boxes):
    content = export({"1.jpg": ["dog"] if boxes else [], "2.jpg": []}, [(2**32 - 5, "dog", "root")] if boxes else [])
    content["tag_categories"] = [{"id": 2**31, "name": "cat"}, {"id": 2**32 - 5, "name": "dog"}]
    content["images"][0]["tag_ids"] = [2**31]
    content["images"][1]["tag_ids"] = [2**31, 2**32 - 5]
    file = write_json(tmp_path / "output.json", content)
    write_pictures(tmp_path / "images", ["1.jpg", "2.jpg"])
    data = COCOJSON(str(tmp_path), train="output.json")
    assert labels(data, "train") == {"1.jpg": {"cat", "dog"} if boxes else {"cat"}, "2.jpg": {"cat", "dog"}}
    content["images"][1]["tag_ids"] = [["cat"]]
    write_json(file, content)
    refused(tmp_path, "output.json", "images[1]: tag_ids is [['cat']]", train="output.json")
    content["images"][1]["tag_ids"] = [7]
    write_json(file, content)
    refused(tmp_path, "output.json", "category 7 is unknown", train="output.json")


# --- Ids, names and classes


def test_ids_are_of_their_file_and_names_count(tmp_path):
    """Other ids, another order and a class more in another file."""
    write_json(tmp_path / "train.json", export(TRAIN, [(0, "cat", ""), (9, "dog", ""), (4, "emu", "")]))
    write_json(tmp_path / "test.json", export(TEST, [(3, "emu", ""), (1, "yak", ""), (2, "dog", ""), (7, "cat", "")]))
    write_pictures(tmp_path, [*TRAIN, *TEST])
    data = COCOJSON(str(tmp_path), train="train.json", test="test.json")
    assert data.classes == ("cat", "emu", "dog", "yak")  # by id, then those of other files
    train, test = data.read_split("train"), data.read_split("test")
    order = ("cat", "emu", "dog")
    assert train.targets.tolist() == [[*(int(name in names) for name in order), -1] for names in TRAIN.values()]
    assert test.targets.tolist() == [[*(int(name in names) for name in order), 0] for names in TEST.values()]
    assert "train.json lack yak, unknown" in data.notes["train categories"] and "test categories" not in data.notes


def test_a_group_without_annotations_is_no_class_and_is_told(tmp_path):
    data = COCOJSON(str(write_roboflow(tmp_path)))
    assert data.classes == CLASSES and "animals only groups" in data.notes["train groups"]
    assert COCOJSON(str(tmp_path), classes=["animals", "cat"]).read_split("train").targets[:, 0].sum() == 0


def test_a_group_with_the_name_of_its_only_class(tmp_path):
    write_roboflow(tmp_path)
    for split in ("train", "valid", "test"):
        categories = [(0, "raccoon", "none"), (1, "raccoon", "raccoon")]
        write_json(tmp_path / split / "_annotations.coco.json", export({"1.jpg": ["raccoon"], "2.jpg": []}, categories))
        write_pictures(tmp_path / split, ["1.jpg", "2.jpg"])
    first = COCOJSON(str(tmp_path))
    for data in (first, COCOJSON(**first.portable_arguments())):
        assert data.classes == ("raccoon",)
        assert data.read_split("train").targets.tolist() == [[1], [0]]


@pytest.mark.parametrize("where", ["train", "valid", "test"])
def test_a_group_that_some_file_annotates_is_a_class_in_all(tmp_path, where):
    write_roboflow(tmp_path)
    images = {"train": TRAIN, "valid": VAL, "test": TEST}[where] | {"more.jpg": ["animals"]}
    write_json(tmp_path / where / "_annotations.coco.json", export(images))
    data = COCOJSON(str(tmp_path))
    assert data.classes == ("animals", *CLASSES) and not data.notes
    split = "val" if where == "valid" else where
    assert data.read_split(split).targets[:, 0].tolist() == [0] * (len(images) - 1) + [1]


def test_a_parent_of_others_within_a_hierarchy_stays(tmp_path):
    """Only what is at the top groups everything; COCO's person is its own supercategory."""
    categories = [
        (1, "person", "person"),
        (2, "rider", "person"),
        (3, "top", "none"),
        (4, "mid", "top"),
        (5, "cat", "mid"),
    ]
    write_json(tmp_path / "result.json", export({"1.jpg": ["cat"]}, categories))
    assert COCOJSON(str(tmp_path)).classes == ("person", "rider", "mid", "cat")


def test_classes_size_and_crowds(tmp_path):
    content = export({"1.jpg": ["cat", "dog"], "2.jpg": ["emu", "cat"]}, PLAIN)
    content["annotations"][1] |= {"area": 4000}
    content["annotations"][3] |= {"area": 4000, "iscrowd": 1}
    write_json(tmp_path / "result.json", content)
    write_pictures(tmp_path / "images", ["1.jpg", "2.jpg"])

    def targets(**settings):
        return COCOJSON(str(tmp_path), **settings).read_split("train").targets.tolist()

    assert targets(classes=["emu", "cat"]) == [[0, 1], [1, 1]]
    assert targets(min_area=1024) == [[0, 1, 0], [1, 0, 0]]
    assert targets(min_area=1024, crowd="drop") == [[0, 1, 0], [0, 0, 0]]
    refused(tmp_path, "'Emus'", "did you mean 'emu'?", classes=["Emus"])


def test_an_image_listed_twice_must_agree_with_itself(tmp_path):
    content = export({"1.jpg": ["cat"], "2.jpg": ["dog"]}, PLAIN)
    content["images"][1]["file_name"] = "1.jpg"
    write_json(tmp_path / "result.json", content)
    write_pictures(tmp_path, ["1.jpg"])
    with pytest.raises(MlclError, match=r"1.jpg is listed twice, with different labels"):
        COCOJSON(str(tmp_path)).setup("fit")


# --- Another process, and a test elsewhere


def test_the_portable_arguments_make_the_same_dataset(tmp_path, monkeypatch):
    write_roboflow(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    portable = COCOJSON("a", classes=["emu", "cat"]).portable_arguments()
    monkeypatch.chdir("/")
    again = COCOJSON(**portable)
    assert again.classes == ("emu", "cat") and again.read_split("train").paths[0] == tmp_path / "a" / "train" / "0.jpg"


@pytest.mark.parametrize(
    "settings", [{}, {"train": "train/_annotations.coco.json", "test": "test/_annotations.coco.json"}]
)
def test_a_test_elsewhere_needs_no_training_file(tmp_path, settings):
    shutil.rmtree(write_roboflow(tmp_path) / "train")
    data = COCOJSON(str(tmp_path), classes=["cat", "dog", "emu", "yak"], **settings)
    data.read_splits()
    assert data.splits["test"].targets.tolist() == [
        [*(int(n in names) for n in CLASSES), -1] for names in TEST.values()
    ]
    assert "train" not in data.splits
    refused(tmp_path, "missing" if settings else "no training annotations", "--data.train", **settings)


# --- What is wrong, in one line


def test_two_categories_of_one_name_are_refused(tmp_path):
    write_json(
        tmp_path / "result.json", export({"1.jpg": ["cat"]}, [(1, "cat", ""), (2, "dog", ""), (3, "cat", "pet")])
    )
    refused(tmp_path, "result.json", "two categories are named 'cat'")


def test_images_without_any_annotation_are_no_training(tmp_path):
    write_json(tmp_path / "result.json", export({"1.jpg": [], "2.jpg": []}, PLAIN))
    refused(tmp_path, "result.json has no annotations", "--data CSVDataset")


def test_a_test_without_any_annotation_is_all_absent(tmp_path):
    write_roboflow(tmp_path)
    write_json(tmp_path / "test" / "_annotations.coco.json", export(dict.fromkeys(TEST, ())))
    assert not COCOJSON(str(tmp_path)).read_split("test").targets.any()


def test_several_files_for_one_split_are_named(tmp_path):
    write_roboflow(tmp_path)
    write_json(tmp_path / "valid" / "labels.json", export(VAL))
    refused(tmp_path, "_annotations.coco.json and", "labels.json", "val annotations", "--data.val FILE")


def test_a_folder_without_annotations(tmp_path):
    write_json(tmp_path / "other.json", export(TRAIN))
    refused(tmp_path, tmp_path, "holds no annotation file", "--data.train FILE")
    refused(tmp_path / "nowhere", "nowhere", "holds no annotation file")
    refused(tmp_path, "absent.json is missing", "--data.train", train="absent.json")
    refused(tmp_path, "no training annotations", "--data.train", test="other.json")


def test_pictures_that_are_nowhere_are_told(tmp_path):
    write_json(tmp_path / "result.json", export(TRAIN, PLAIN))
    refused(tmp_path, "result.json: its pictures, such as 0.jpg, are not in", tmp_path, "--data.images")
    refused(tmp_path, tmp_path / "photos", images="photos")


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    root = tmp_path / "root"
    write_json(root / "result.json", export({"../secret.jpg": ["cat"], "1.jpg": []}, PLAIN))
    write_pictures(tmp_path, ["secret.jpg"])
    write_pictures(root, ["1.jpg"])
    refused(root, "result.json", "../secret.jpg leads out of")


def test_a_cached_table_is_that_of_its_file(tmp_path):
    file = write_json(tmp_path / "result.json", export({"1.jpg": ["cat"]}, PLAIN))
    write_pictures(tmp_path, ["1.jpg"])
    assert COCOJSON(str(tmp_path)).read_split("train").targets.tolist() == [[1, 0, 0]]
    state = file.stat()
    file.write_text(json.dumps(export({"1.jpg": ["emu"]}, PLAIN)))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert COCOJSON(str(tmp_path)).read_split("train").targets.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("seed", range(8))
def test_random_exports_are_as_in_a_slow_loop(tmp_path, seed):
    rng = np.random.default_rng(seed)
    names = [f"class {k}" for k in range(6)]
    truth = {}
    for split in ("train", "test"):
        ids = rng.permutation(50)[:6].tolist()
        categories = [(ids[k], names[k], "") for k in rng.permutation(6).tolist()]
        images = {f"{split}{i}.jpg": rng.choice(names, rng.integers(0, 4)).tolist() for i in range(12)}
        truth[split] = images
        write_json(tmp_path / split / "labels.json", export(images, categories, first=int(rng.integers(0, 9))))
        write_pictures(tmp_path / split / "data", images)
    data = COCOJSON(str(tmp_path))
    for split, images in truth.items():
        assert labels(data, split) == expected(images)


def test_a_box_of_negative_sides_has_no_area():
    with pytest.raises(MlclError, match="entry 3 has no area"):
        area_of({"area": -1, "bbox": [1, 1, -9, -9]}, "entry 3")
