import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.trees import REAL_DATA, WHY_NO_REAL_DATA, coco_json, write_coco

from mlcl.data import coco_labels
from mlcl.data.coco import COCO2014, COCO_CLASSES, read_coco
from mlcl.data.demo import Demo
from mlcl.errors import MlclError

CATEGORIES = {90: "zebra", 3: "cat", 17: "ant"}  # ids with holes, in no order, against the alphabet
CLASSES = ("cat", "ant", "zebra")  # by id
TRAIN = {
    30: [3, 3, 90],
    7: [{"category_id": 17, "iscrowd": 1, "segmentation": {"counts": [1200], "size": [30, 40]}}],
    12: [],
    9: [{"category_id": 90, "area": 0.25, "bbox": [0, 0, 0.5, 0.5]}],
}
VAL = {5: [3], 6: [17, 90, 3]}


class Animals(COCO2014):
    """The layout of COCO with three classes."""

    classes = CLASSES


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mlcl" / "labels"


@pytest.fixture
def root(tmp_path, cache):
    return write_coco(tmp_path / "coco", CATEGORIES, TRAIN, VAL)


@pytest.fixture
def annotations(root):
    return root / "annotations" / "instances_train2014.json"


def read(annotations, classes=CLASSES):
    return read_coco(annotations, annotations.parents[1] / "train2014", classes)


def one_line(error, *words):
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


def test_columns_are_in_the_order_of_the_category_ids(root):
    train = Animals(str(root)).read_split("train")
    assert [path.name for path in train.paths] == [f"{i:012d}.jpg" for i in (7, 9, 12, 30)]
    assert train.targets.dtype == np.int8
    assert train.targets.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]]


def test_test_is_val2014_and_there_is_no_split_val(root):
    data = Animals(str(root))
    test = data.read_split("test")
    assert test.targets.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert all(path.is_file() and path.parent == root / "val2014" for path in test.paths)
    assert data.read_split("val") is None
    data.prepare_data()


@pytest.mark.parametrize(("empty_images", "train"), [("keep", 4), ("drop", 3)])
def test_images_without_annotation(root, empty_images, train):
    data = Animals(str(root), empty_images=empty_images)
    data.setup("fit")
    counts = {split: len(samples.paths) for split, samples in data.splits.items()}
    assert counts == {"train": train, "val": 2, "test": 2}


def test_the_80_classes_of_coco():
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    assert COCO_CLASSES[0] == "person"
    assert COCO_CLASSES[-1] == "toothbrush"
    assert "traffic light" in COCO_CLASSES
    assert all(name == name.strip() and "\n" not in name for name in COCO_CLASSES)
    assert COCO2014().num_classes == 80


# --- Ids as numbers and as text


def spelled(content, **how):
    """The content with the ids of these lists written otherwise."""
    for key, write in how.items():
        for where, name in {"images": [("images", "id")], "categories": [("categories", "id")],
                            "image_id": [("annotations", "image_id")],
                            "category_id": [("annotations", "category_id")]}[key]:  # fmt: skip
            for number, entry in enumerate(content[where]):
                entry[name] = write(entry[name], number)
    return content


def padded(id, number):
    return f"{id:03d}"


def text(id, number):
    return str(id)


SPELLINGS = {
    "image_id text": {"image_id": text},
    "image ids text": {"images": text},
    "both text": {"images": text, "image_id": text},
    "categories text": {"categories": text},
    "category_id text": {"category_id": text},
    "padded": {"image_id": padded, "category_id": padded},
    "floats": {"image_id": lambda id, number: float(id), "categories": lambda id, number: float(id)},
    "floats as text": {"images": lambda id, number: f"{id}.0"},
    "both in one list": {"images": lambda id, number: str(id) if number % 2 else id, "image_id": padded},
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_an_id_is_the_same_as_number_and_as_text(annotations, name):
    expected = read(annotations)
    annotations.write_text(json.dumps(spelled(coco_json(CATEGORIES, TRAIN), **SPELLINGS[name])))
    found = read(annotations)
    of_name = dict(zip(found.paths, found.targets.tolist(), strict=True))
    assert [of_name[path] for path in expected.paths] == expected.targets.tolist()
    assert (found.targets == 1).sum() == 4


def test_ids_that_are_no_numbers_match_as_they_are(annotations):
    words = {7: "a7", 9: "9", 12: "2008_000012", 30: "0x1e"}
    content = spelled(coco_json(CATEGORIES, TRAIN), images=lambda id, n: words[id], image_id=lambda id, n: words[id])
    annotations.write_text(json.dumps(content))
    found = read(annotations)
    rows = {int(path.stem): row for path, row in zip(found.paths, found.targets.tolist(), strict=True)}
    assert rows == {7: [0, 1, 0], 9: [0, 0, 1], 12: [0, 0, 0], 30: [1, 0, 1]}


def test_twelve_categories_with_ids_as_text_come_in_the_order_of_numbers(annotations):
    names = {i: f"class {i}" for i in range(1, 13)}
    content = spelled(coco_json(names, {1: [2, 10], 2: [12]}), categories=text, image_id=text)
    annotations.write_text(json.dumps(content))
    assert [np.flatnonzero(row).tolist() for row in read(annotations, tuple(names.values())).targets] == [[1, 9], [11]]


@pytest.mark.parametrize(("ids", "words"), [((3, "3"), "3 and '3'"), (("03", "3"), "'03' and '3'"), ((3, 3), "id 3")])
@pytest.mark.parametrize("key", ["images", "categories"])
def test_two_ids_that_mean_the_same_are_told(annotations, key, ids, words):
    content = coco_json(CATEGORIES, {1: [], 2: []})
    for entry, id in zip(content[key], ids, strict=False):
        entry["id"] = id
    annotations.write_text(json.dumps(content))
    with pytest.raises(MlclError) as error:
        read(annotations)
    one_line(error, annotations, f"two of the {key}", words)


@pytest.mark.parametrize("write", [lambda id, n: id + 1000, lambda id, n: f"{id:012d}.jpg", lambda id, n: f"id {id}"])
def test_annotations_of_which_none_fits_an_image_are_told(annotations, cache, write):
    content = spelled(coco_json(CATEGORIES, TRAIN), image_id=write)
    annotations.write_text(json.dumps(content))
    with pytest.raises(MlclError) as error:
        read(annotations)
    one_line(error, annotations, "none of its 5 annotations belongs to one of its 4 images")
    one_line(error, repr(write(30, 0)), "[7, 9, 12, 30]")
    assert not list(cache.glob("*"))


def test_a_part_of_the_images_with_all_of_the_annotations_is_fine(annotations):
    content = coco_json(CATEGORIES, TRAIN)
    content["images"] = content["images"][:1]
    annotations.write_text(json.dumps(content))
    assert read(annotations).targets.tolist() == [[1, 0, 1]]


def test_a_cache_of_the_format_before_is_not_used(annotations, cache, monkeypatch):
    """It may hold no label where ids were text."""
    monkeypatch.setattr(coco_labels, "_CACHE_FORMAT", 3)
    read(annotations)
    (old,) = cache.iterdir()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    read(annotations)
    assert len(list(cache.iterdir())) == 2 and old.is_file()


# --- Which objects count


def slow(content, classes, min_area, crowd):
    """File name -> names present, object by object."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    present = {image["file_name"]: set() for image in content["images"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for entry in content["annotations"]:
        name = names[entry["category_id"]]
        if name in classes and entry["area"] >= min_area and not (crowd == "drop" and entry["iscrowd"] == 1):
            present[files[entry["image_id"]]].add(name)
    return present


def many_objects(seed):
    rng = np.random.default_rng(seed)
    images = {}
    for image in range(1, 30):
        images[image] = [
            {
                "category_id": int(rng.choice([3, 17, 90])),
                "area": float(rng.choice([5.5, 1024, 4000])),
                "iscrowd": int(rng.random() < 0.3),
            }
            for _ in range(rng.integers(0, 5))
        ]
    return coco_json(CATEGORIES, images)


@pytest.mark.parametrize("classes", [None, ["zebra", "cat"], ["ant"]])
@pytest.mark.parametrize(("min_area", "crowd"), [(0, "keep"), (1024, "keep"), (1024.5, "drop"), (0, "drop")])
def test_classes_size_and_crowds_are_as_in_a_slow_loop(tmp_path, cache, classes, min_area, crowd):
    content = many_objects(seed=len(classes or ()) + int(min_area))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2014.json").write_text(json.dumps(content))
    data = Animals(str(tmp_path), classes=classes, min_area=min_area, crowd=crowd)
    for _ in range(2):  # the second time from the cache
        train = data.read_split("train")
        assert data.classes == tuple(classes or CLASSES)
        found = {
            path.name: {data.classes[k] for k in np.flatnonzero(row)}
            for path, row in zip(train.paths, train.targets, strict=True)
        }
        assert found == slow(content, data.classes, min_area, crowd)


def test_other_options_are_cached_apart(root, cache):
    assert Animals(str(root), min_area=50).read_split("train").targets.sum() == 3
    assert Animals(str(root), crowd="drop").read_split("train").targets.sum() == 3
    assert Animals(str(root), classes=["ant"]).read_split("train").targets.tolist() == [[1], [0], [0], [0]]
    assert Animals(str(root)).read_split("train").targets.sum() == 4
    assert len(list(cache.iterdir())) == 3  # classes are columns of one table


AREAS = {  # an entry without its usual area, and its pixels
    "bbox": ({"area": None, "bbox": [0, 0, 10, 8.5]}, 85),
    "an area of 0 beside a bbox": ({"area": 0, "bbox": [0, 0, 10, 8.5]}, 85),
    "a polygon": ({"area": None, "bbox": None, "segmentation": [[0, 0, 10, 0, 10, 10]]}, 50),
    "two polygons": ({"area": None, "bbox": [], "segmentation": [[0, 0, 10, 0, 10, 10], [20, 20, 20, 26, 26, 26]]}, 68),
    "nothing but 0": ({"area": 0, "bbox": None}, 0),
}


@pytest.mark.parametrize("name", AREAS)
def test_the_area_of_an_object_that_gives_none(annotations, name):
    entry, pixels = AREAS[name]
    annotations.write_text(json.dumps(coco_json(CATEGORIES, {1: [{"category_id": 3, **entry}]})))
    for min_area, expected in ((max(pixels, 0.1), pixels > 0), (pixels + 0.5, False)):
        targets = Animals(str(annotations.parents[1]), min_area=min_area).read_split("train").targets
        assert targets.tolist() == [[int(expected), 0, 0]]


@pytest.mark.parametrize(
    "entry",
    [
        {"area": None, "bbox": None, "segmentation": None},
        {"area": "large", "bbox": [1, 2, 3], "segmentation": []},
        {"area": 10**400, "bbox": [1, 2, True, 3], "segmentation": []},
        {"area": None, "bbox": None, "segmentation": [[0, 0, 1]]},
        {"area": float("nan"), "bbox": [0, 0, float("nan"), 1], "segmentation": {"counts": "x", "size": [1, 1]}},
    ],
)
def test_an_object_without_any_area_is_told_where_one_is_needed(annotations, entry):
    annotations.write_text(json.dumps(coco_json(CATEGORIES, {1: [3, {"category_id": 3, **entry}]})))
    assert Animals(str(annotations.parents[1])).read_split("train").targets.tolist() == [[1, 0, 0]]
    with pytest.raises(MlclError) as error:
        Animals(str(annotations.parents[1]), min_area=1).read_split("train")
    one_line(error, annotations, "annotations[1]", "data.min_area")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": ["cat", "Zebr"]}, ("'Zebr'", "did you mean 'zebra'?")),
        ({"classes": ["CAT"]}, ("'CAT'", "did you mean 'cat'?")),
        ({"classes": ["qqq"]}, ("'qqq'", "known: cat, ant, zebra")),
        ({"classes": ["cat", "cat"]}, ("'cat' more than once",)),
        ({"classes": []}, ("no class",)),
        ({"min_area": -1}, ("data.min_area",)),
        ({"min_area": float("nan")}, ("data.min_area",)),
        ({"crowd": "no"}, ("data.crowd", "keep, drop")),
        ({"year": 2015}, ("data.year", "2014, 2017")),
    ],
)
def test_wrong_options_are_told(settings, words):
    with pytest.raises(MlclError) as error:
        Animals("nowhere", **settings)
    one_line(error, *words)


def test_the_demo_takes_the_options_of_coco(tmp_path):
    small = {"train_images": 6, "test_images": 2, "scene_size": 32}
    demo = Demo(str(tmp_path / "demo"), classes=["tree", "moon"], **small)
    demo.prepare_data()
    whole = Demo(str(tmp_path / "demo"), **small)
    columns = [whole.classes.index(name) for name in ("tree", "moon")]
    np.testing.assert_array_equal(demo.read_split("train").targets, whole.read_split("train").targets[:, columns])
    assert whole.num_classes == 12


# --- 2017


def test_2017_is_the_same_layout_with_other_names(tmp_path, cache):
    write_coco(tmp_path, CATEGORIES, TRAIN, VAL)
    for old in ("train2014", "val2014"):
        (tmp_path / old).rename(tmp_path / old.replace("2014", "2017"))
        annotations = tmp_path / "annotations" / f"instances_{old}.json"
        annotations.rename(annotations.with_stem(annotations.stem.replace("2014", "2017")))
    data = Animals(str(tmp_path), year=2017)
    data.prepare_data()
    assert data.read_split("train").paths[0] == tmp_path / "train2017" / "000000000007.jpg"
    assert data.read_split("test").targets.tolist() == [[1, 0, 0], [1, 1, 1]]
    with pytest.raises(MlclError, match=r"instances_train2014.json is missing"):
        Animals(str(tmp_path)).prepare_data()


def test_what_is_missing_of_2017_is_named_by_its_year(tmp_path):
    with pytest.raises(MlclError) as error:
        Animals(str(tmp_path), year=2017).prepare_data()
    one_line(error, "instances_train2017.json is missing", "train2017/, val2017/", "--data.download")


# --- The cache


def overwrite_unnoticed(path, content=b"x"):
    """Other bytes, but the size and the time of before."""
    state = path.stat()
    path.write_bytes(content * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_the_second_reading_comes_from_the_cache(annotations, cache):
    first = read(annotations)
    assert [file.suffix for file in cache.iterdir()] == [".npz"]
    overwrite_unnoticed(annotations)
    second = read(annotations)
    assert second.paths == first.paths
    np.testing.assert_array_equal(second.targets, first.targets)
    assert second.targets.dtype == np.int8


def test_the_cache_holds_no_pickle(annotations, cache):
    read(annotations)
    (file,) = cache.iterdir()
    with np.load(file, allow_pickle=False) as stored:
        assert stored["classes"].tolist() == list(CLASSES)
        assert {key: stored[key].dtype.kind for key in stored.files} == {
            "classes": "U",
            "supercategories": "U",
            "counts": "i",
            "file_names": "U",
            "targets": "i",
            "unused": "i",
        }


def test_a_newer_file_is_read_again(annotations):
    read(annotations)
    state = annotations.stat()
    annotations.write_text(json.dumps(coco_json(CATEGORIES, {1: [17]})).ljust(state.st_size))
    os.utime(annotations, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert read(annotations).targets.tolist() == [[0, 1, 0]]


def test_a_file_of_another_size_is_read_again(annotations):
    read(annotations)
    state = annotations.stat()
    annotations.write_text(json.dumps(coco_json(CATEGORIES, {1: [17]})))
    os.utime(annotations, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read(annotations).targets.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "an array", "other arrays"])
def test_a_damaged_cache_is_made_again(annotations, cache, damage):
    first = read(annotations)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    if damage == "an array":
        with file.open("wb") as stream:
            np.save(stream, np.arange(3))
    elif damage == "other arrays":
        np.savez(file, names=np.arange(3))
    else:
        file.write_bytes({"empty": b"", "cut": good[: len(good) // 2], "text": b"hello"}[damage])
    np.testing.assert_array_equal(read(annotations).targets, first.targets)
    overwrite_unnoticed(annotations)
    np.testing.assert_array_equal(read(annotations).targets, first.targets)  # from the new cache


def test_two_trees_do_not_share_a_cache(annotations, tmp_path):
    other = tmp_path / "other" / "annotations" / annotations.name
    write_coco(tmp_path / "other", CATEGORIES, {image: [90] for image in TRAIN}, VAL)
    state = annotations.stat()
    other.write_text(other.read_text().ljust(state.st_size))
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    read(annotations)
    assert read(other).targets.tolist() == [[0, 0, 1]] * 4
    assert read(annotations).targets.tolist()[0] == [0, 1, 0]


def test_without_a_place_for_the_cache_it_is_only_slower(annotations, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(read(annotations).paths) == len(read(annotations).paths) == 4


def test_reading_prints_nothing(annotations, capsys):
    read(annotations)
    assert capsys.readouterr() == ("", "")


# --- What is wrong, in one line


def test_a_missing_annotation_file_says_where_and_what_to_do(tmp_path):
    with pytest.raises(MlclError) as error:
        Animals(str(tmp_path)).read_split("train")
    one_line(error, tmp_path / "annotations" / "instances_train2014.json", "--data.root", "--data.download")


def without(key, where, number=0):
    content = coco_json(CATEGORIES, TRAIN)
    del content[where][number][key]
    return json.dumps(content)


NOT_COCO = {
    "empty": "",
    "cut": json.dumps(coco_json(CATEGORIES, TRAIN))[:-200],
    "text": "hello\nworld\n",
    "a list": "[1, 2]",
    "a number": "7",
    "a list of numbers": '{"images": [1], "annotations": [2], "categories": [3]}',
    "images without id": without("id", "images"),
    "images without file_name": without("file_name", "images"),
    "annotations without image_id": without("image_id", "annotations"),
    "annotations without category_id": without("category_id", "annotations"),
    "categories without id": without("id", "categories"),
    "categories without name": without("name", "categories"),
    "an unknown category": json.dumps(coco_json(CATEGORIES, {**TRAIN, 1: [4]})),
}


@pytest.mark.parametrize("name", NOT_COCO)
def test_a_file_that_is_no_coco_annotation_file_is_named(annotations, cache, name):
    annotations.write_text(NOT_COCO[name])
    with pytest.raises(MlclError) as error:
        read(annotations)
    one_line(error, annotations, "is not a COCO annotation file")
    assert not list(cache.glob("*"))


def test_bytes_that_are_no_text_are_named(annotations):
    annotations.write_bytes(b"\xff\xfe\x00{" * 20)
    with pytest.raises(MlclError) as error:
        read(annotations)
    one_line(error, annotations, "is not a COCO annotation file")


def test_an_unknown_category_is_named(annotations):
    annotations.write_text(NOT_COCO["an unknown category"])
    with pytest.raises(MlclError, match=r"category 4 is unknown"):
        read(annotations)


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ({**CATEGORIES, 3: "dog"}, ("3 categories, expected 3", "cat", "dog")),
        ({3: "cat", 17: "ant"}, ("2 categories, expected 3", "zebra")),
        ({3: "ant", 17: "cat", 90: "zebra"}, ("their order",)),
        ({}, ("0 categories, expected 3",)),
    ],
)
def test_other_categories_are_told(annotations, categories, words):
    annotations.write_text(json.dumps(coco_json(categories, {1: []})))
    with pytest.raises(MlclError) as error:
        read(annotations)
    one_line(error, annotations, *words)


def test_other_categories_are_told_from_the_cache_too(annotations):
    read(annotations)
    with pytest.raises(MlclError, match="expected 80"):
        read(annotations, COCO_CLASSES)


def test_absent_images_are_counted_and_the_first_is_named(root):
    (root / "train2014" / "000000000009.jpg").unlink()
    (root / "train2014" / "000000000030.jpg").unlink()
    with pytest.raises(MlclError) as error:
        Animals(str(root)).prepare_data()
    one_line(error, "2 of 4 train images", root / "train2014" / "000000000009.jpg", "--data.root")


def test_an_absent_folder_of_images_is_told(root):
    for picture in (root / "val2014").iterdir():
        picture.unlink()
    (root / "val2014").rmdir()
    with pytest.raises(MlclError) as error:
        Animals(str(root)).prepare_data()
    one_line(error, "2 of 2 test images", root / "val2014")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "annotations" / "instances_train2014.json"


GOOD = json.dumps(coco_json({1: "a", 2: "b"}, {1: [1, 2], 2: []})).encode()


BYTES = st.sampled_from(b'0129aex",:[]{}-. \0\xff')


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    length=st.floats(0, 1) | st.just(1.0),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), BYTES), max_size=5),
)
def test_a_damaged_file_gives_samples_or_an_mlcl_error(scratch, length, flips):
    data = bytearray(GOOD[: round(length * len(GOOD))])
    for place, byte in flips if data else ():
        data[int(place * len(data))] = byte
    scratch.parent.mkdir(exist_ok=True)
    scratch.write_bytes(data)
    try:
        samples = read(scratch, ("a", "b"))
        assert samples.targets.shape == (len(samples.paths), 2)
    except MlclError as error:
        assert "\n" not in str(error)
        assert str(scratch) in str(error)


# --- The real files


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=WHY_NO_REAL_DATA)
def test_the_real_slice_of_coco():
    root = REAL_DATA / "coco2014"
    data = COCO2014(str(root), image_size=32)
    data.prepare_data()
    data.setup("fit")
    train, test = data.splits["train"], data.splits["test"]
    assert (len(train.paths), len(test.paths)) == (85, 171)
    assert (~(train.targets == 1).any(1)).sum() == 2

    content = json.loads((root / "annotations" / "instances_train2014.json").read_text())
    by_id = sorted(content["categories"], key=lambda category: category["id"])
    assert [category["name"] for category in by_id] == list(COCO_CLASSES)
    column = {category["id"]: k for k, category in enumerate(by_id)}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    expected = {(files[a["image_id"]], column[a["category_id"]]) for a in content["annotations"]}
    found = {(train.paths[i].name, int(k)) for i, k in zip(*np.nonzero(train.targets), strict=True)}
    assert found == expected


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=WHY_NO_REAL_DATA)
def test_the_real_slice_agrees_with_the_full_label_matrix():
    test = COCO2014(str(REAL_DATA / "coco2014")).read_split("test")
    with np.load(REAL_DATA / "labels" / "coco2014_val_labels.npz") as full:
        keys = {key: full[key] for key in full.files}
    row = {int(image): i for i, image in enumerate(keys["ids"])}
    known = [(i, row[number]) for i, path in enumerate(test.paths) if (number := int(path.stem[-12:])) in row]
    assert len(known) > 160
    ours, theirs = (np.array(rows) for rows in zip(*known, strict=True))
    np.testing.assert_array_equal(test.targets[ours], keys["labels"][theirs])
