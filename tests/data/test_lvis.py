import numpy as np
import pytest
from support.object_trees import LVIS_NAMES, LVIS_TRAIN, LVIS_VAL, lvis_json, write_json, write_lvis
from support.trees import write_pictures

from mlcl.data.lvis import LVIS
from mlcl.errors import MlclError

CLASSES = ("aerosol_can", "bow_(weapon)", "dog", "cat")  # by id


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def slow(images, classes):
    """Path below the root -> target of each class: the annotated 1, the negative 0, all others -1."""
    ids = {name: id for id, name in LVIS_NAMES.items()}
    rows = {}
    for image in images:
        present, absent = image["present"], image["absent"]
        row = [1 if ids[name] in present else 0 if ids[name] in absent else -1 for name in classes]
        rows[f"{image['part']}/{image['id']:012d}.jpg"] = row
    return rows


def read(data, split):
    samples = data.read_split(split)
    assert all(path.is_file() for path in samples.paths) and samples.targets.dtype == np.int8
    names = [path.relative_to(data.root).as_posix() for path in samples.paths]
    return dict(zip(names, samples.targets.tolist(), strict=True))


@pytest.mark.parametrize("version", ["v1", "v0.5"])
@pytest.mark.parametrize("folder", ["annotations", ""])
def test_targets_are_known_where_an_image_was_annotated_for_the_class(tmp_path, version, folder):
    root = write_lvis(tmp_path / "lvis", version)
    for file in list((root / "annotations").iterdir()):
        file.rename(root / folder / file.name)
    data = LVIS(str(root), version=version)
    data.prepare_data()
    for _ in range(2):  # the second time from the cache
        assert data.classes == CLASSES
        assert read(data, "train") == slow(LVIS_TRAIN, CLASSES)
        assert read(data, "test") == slow(LVIS_VAL, CLASSES)
    assert data.read_split("val") is None


def test_the_val_of_v1_has_pictures_of_both_folders(tmp_path):
    paths = LVIS(str(write_lvis(tmp_path))).read_split("test").paths
    assert {path.parent.name for path in paths} == {"train2017", "val2017"}


@pytest.mark.parametrize("classes", [["cat"], ["cat", "aerosol_can"]])
def test_some_classes(tmp_path, classes):
    data = LVIS(str(write_lvis(tmp_path)), classes=classes)
    assert read(data, "train") == slow(LVIS_TRAIN, classes)
    with pytest.raises(MlclError, match=r"'Cat' is no class of LVIS v1; did you mean 'cat'"):
        LVIS(str(tmp_path), classes=["Cat"])


def test_a_class_of_which_only_small_objects_are_marked_is_unknown(tmp_path):
    content = lvis_json(LVIS_TRAIN)
    content["annotations"][0]["area"] = 5000  # one of the two cats
    write_json(tmp_path / "lvis_v1_train.json", content)
    targets = LVIS(str(tmp_path), min_area=1024).read_split("train").targets
    assert targets.tolist() == [[-1, -1, 0, 0], [-1, 0, -1, -1], [0, -1, -1, 1], [-1, -1, -1, -1]]


def test_names_without_a_url_lie_in_the_folder_of_their_part(tmp_path):
    """As in a COCO file of 2014 or 2017; the names of v0.5 were those of 2014."""
    for part, spelled in (("train", "COCO_val2014_{:012d}.jpg"), ("val", "{:012d}.jpg")):
        content = lvis_json([{"id": 42, "part": "nowhere", "present": [7], "absent": [4]}])
        del content["images"][0]["coco_url"]
        content["images"][0]["file_name"] = spelled.format(42)
        write_json(tmp_path / f"lvis_v0.5_{part}.json", content)
        write_pictures(tmp_path / f"{part}2017", ["000000000042.jpg"])
    data = LVIS(str(tmp_path), version="v0.5")
    assert read(data, "train") == {"train2017/000000000042.jpg": [-1, -1, 0, 1]}
    assert read(data, "test") == {"val2017/000000000042.jpg": [-1, -1, 0, 1]}


def test_the_url_counts_where_v05_has_both(tmp_path):
    content = lvis_json(LVIS_TRAIN)
    for image in content["images"]:
        image["file_name"] = f"COCO_train2014_{image['id']:012d}.jpg"
    root = write_lvis(tmp_path, "v0.5")
    write_json(root / "annotations" / "lvis_v0.5_train.json", content)
    assert read(LVIS(str(root), version="v0.5"), "train") == slow(LVIS_TRAIN, CLASSES)


def test_a_test_elsewhere_needs_no_training_file(tmp_path):
    write_json(tmp_path / "lvis_v1_val.json", lvis_json(LVIS_VAL))
    data = LVIS(str(tmp_path), classes=["cat", "dog"])
    data.read_splits()
    assert data.splits["test"].targets.tolist() == [[1, 0], [0, 1], [-1, -1]] and "train" not in data.splits
    with pytest.raises(MlclError, match=r"lvis_v1_train.json is missing: give --data.root"):
        LVIS(str(tmp_path))


def change(images, key, value):
    return lvis_json([{**images[0], key: value}, *images[1:]])


def without(key):
    content = lvis_json(LVIS_TRAIN)
    del content["images"][2][key]
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (change(LVIS_TRAIN, "absent", [1, 4]), "image 9: 'dog' is annotated and also in neg_category_ids"),
        (change(LVIS_TRAIN, "absent", [1, 99]), "image 9: category 99 of neg_category_ids is unknown"),
        (change(LVIS_TRAIN, "absent", [[1]]), "image 9: category [1] of neg_category_ids is unknown"),
        (change(LVIS_TRAIN, "absent", None), "image 9 has no list neg_category_ids, so this is not LVIS"),
        (without("neg_category_ids"), "image 5 has no list neg_category_ids, so this is not LVIS"),
        (without("coco_url"), "images[2]: file_name is None"),
        (change(LVIS_TRAIN, "part", ".."), "000000000009.jpg leads out of"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, content, words):
    root = tmp_path / "root"
    file = write_json(root / "lvis_v1_train.json", content)
    with pytest.raises(MlclError) as error:
        LVIS(str(root)).read_split("train")
    assert words in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_an_object_that_is_ignored_still_contradicts(tmp_path):
    write_json(tmp_path / "lvis_v1_train.json", change(LVIS_TRAIN, "absent", [4]))
    with pytest.raises(MlclError, match=r"'dog' is annotated and also in neg_category_ids"):
        LVIS(str(tmp_path), min_area=1024)


def test_a_category_that_one_file_lacks_is_told(tmp_path):
    root = write_lvis(tmp_path)
    few = {id: name for id, name in LVIS_NAMES.items() if name != "aerosol_can"}
    write_json(root / "annotations" / "lvis_v1_val.json", lvis_json(LVIS_VAL[:2], few))
    with pytest.raises(MlclError, match=r"lvis_v1_val.json has no category 'aerosol_can'"):
        LVIS(str(root)).read_split("test")
    assert LVIS(str(root), classes=["cat"]).read_split("test").targets.tolist() == [[1], [0]]


@pytest.mark.parametrize("seed", range(5))
def test_random_federations_are_as_in_a_slow_loop(tmp_path, seed):
    rng = np.random.default_rng(seed)
    images = []
    for id in rng.permutation(40)[:20].tolist():
        order = rng.permutation([1, 2, 7, 4]).tolist()
        cut, end = sorted(rng.integers(0, 5, 2).tolist())
        part = ("train2017", "val2017")[rng.integers(2)]
        images.append({"id": id, "part": part, "present": order[:cut] * 2, "absent": order[cut:end]})
        write_pictures(tmp_path / part, [f"{id:012d}.jpg"])
    write_json(tmp_path / "lvis_v1_train.json", lvis_json(images))
    assert read(LVIS(str(tmp_path)), "train") == slow(images, CLASSES)
