import json
import shutil

import numpy as np
import pytest
from support.photo_lists import write_vg500
from support.running import one_epoch_of

from mlcl.data.vg500 import VG500
from mlcl.errors import MlclError

TRAIN = {"2360596.jpg": [0, 499, 7], "2385068.jpg": [7], "2315571.jpg": []}
TEST = {"2328403.jpg": [1, 1], "2336863.jpg": [250]}
INDEX = "vg_category_500_labels_index.json"


@pytest.fixture
def root(tmp_path):
    return write_vg500(tmp_path, TRAIN, TEST)


def refused(root, *words, **options):
    with pytest.raises(MlclError) as error:
        VG500(str(root), **options).read_split("train")
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


def test_the_lists_and_the_index(root):
    data = VG500(str(root))
    for split, images in (("train", TRAIN), ("test", TEST)):
        samples = data.read_split(split)
        assert [path.name for path in samples.paths] == list(images)
        assert all(path.is_file() for path in samples.paths)
        assert samples.targets.dtype == np.int8
        assert samples.targets.tolist() == [[int(k in labels) for k in range(500)] for labels in images.values()]
    assert data.read_split("val") is None
    assert data.num_classes == 500 and data.classes[7] == "class 007"
    data.prepare_data()


@pytest.mark.parametrize(
    "text", ["2360596.jpg\r\n2385068.jpg\r\n", "2360596.jpg\n2385068.jpg", "2360596.jpg \n\n2385068.jpg\n"]
)
def test_ends_of_lines(root, text):
    (root / "train_list_500.txt").write_bytes(text.encode())
    assert [path.name for path in VG500(str(root)).read_split("train").paths] == ["2360596.jpg", "2385068.jpg"]


@pytest.mark.parametrize("folder", ["VG_100K", "VG_100K_2", "images"])
def test_the_pictures_may_be_merged(root, folder):
    (root / "merged").mkdir()
    for part in ("VG_100K", "VG_100K_2"):
        for picture in (root / part).iterdir():
            picture.rename(root / "merged" / picture.name)
        shutil.rmtree(root / part)
    (root / "merged").rename(root / folder)
    data = VG500(str(root))
    data.prepare_data()
    assert {path.parent.name for path in data.read_split("train").paths} == {folder}


def test_pictures_that_are_missing(root):
    shutil.rmtree(root / "VG_100K_2")
    with pytest.raises(MlclError, match=r"1 of 3 train images are missing.*2385068.jpg"):
        VG500(str(root)).prepare_data()


def test_names_of_the_classes(root):
    (root / "names.txt").write_text("".join(f"thing {k}\n" for k in range(500)))
    assert VG500(str(root), names="names.txt").classes[499] == "thing 499"
    (root / "names.txt").write_text("".join(f"thing {k % 499}\n" for k in range(500)))
    refused(root, "names.txt", "499 different classes", "data.names", names="names.txt")
    refused(root, "others.txt", "cannot be read", names="others.txt")


@pytest.mark.parametrize("wrong", [[500], [-1], ["7"], [True], [1.0], 7, None, {"7": 1}])
def test_labels_that_are_no_indices(root, wrong):
    (root / INDEX).write_text(json.dumps({**TRAIN, "2385068.jpg": wrong}))
    refused(root, INDEX, "2385068.jpg")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_an_index_that_is_none(root, text):
    (root / INDEX).write_text(text)
    refused(root, INDEX, "JSON")


def test_lists_that_are_wrong(root):
    (root / "train_list_500.txt").write_text("2360596.jpg\n\n2360596.jpg\n")
    refused(root, "train_list_500.txt", "2360596.jpg twice")
    (root / "train_list_500.txt").write_text("1.jpg\n")
    refused(root, INDEX, "no labels of 1.jpg")
    (root / "train_list_500.txt").write_bytes(b"\xff\xfe\xfd")
    refused(root, "train_list_500.txt", "cannot be read")
    (root / "train_list_500.txt").write_text("../../1.jpg\n")
    (root / INDEX).write_text(json.dumps({"../../1.jpg": [1]}))
    refused(root, "../../1.jpg", "out of")
    (root / INDEX).unlink()
    refused(root, INDEX, "cannot be read")


def test_a_training_and_a_check(mlcl, tmp_path):
    train, test = ({f"{n}{i}.jpg": [i % 3, 499] if i % 2 else [i] for i in range(8)} for n in (1, 2))
    (tmp_path / "vg").mkdir()
    root = write_vg500(tmp_path / "vg", train, test)
    flags, small = one_epoch_of("vg500", root)
    checked = mlcl("check", *flags)
    assert "protocol: 8 train and 8 test images, 500 classes: these counts fit no published" in checked.out
    trained = mlcl("fit", *flags, *small)
    assert trained.status == 0, trained.err
    assert "results in" in trained.out
