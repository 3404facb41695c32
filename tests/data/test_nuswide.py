import shutil

import numpy as np
import pytest
from support.photo_lists import write_nuswide, write_nuswide_table
from support.running import one_epoch_of

from mlcl.data.nuswide import NUSWIDE, NUSWIDE_CLASSES
from mlcl.errors import MlclError

TRAIN = {
    "actor/0001_2124494179.jpg": ["clouds", "person", "sky"],
    "actor/0007_25158805.jpg": [],
    "zoo/0002_174174086.jpg": ["zebra"],
    "zoo/0003_1100787682.jpg": ["dog", "lake"],
}
TEST = {
    "actor/0005_262041423.jpg": ["airport"],
    "zebra/0009_1100787682.jpg": ["whales"],  # the same id in another folder, as in the original list
    "actor/0006_1.jpg": [],
}
FILES = "Groundtruth/TrainTestLabels"


def labelled(photos):
    return {path: names for path, names in photos.items() if names}


def expected(photos):
    """By path, one image and one concept after the other."""
    return {path: [int(concept in names) for concept in NUSWIDE_CLASSES] for path, names in photos.items()}


def found(data, split, root):
    samples = data.read_split(split)
    assert samples.targets.dtype == np.int8 and all(path.is_file() for path in samples.paths)
    paths = [path.relative_to(root).as_posix() for path in samples.paths]
    assert len(set(paths)) == len(paths)
    return dict(zip(paths, samples.targets.tolist(), strict=True))


def refused(root, *words, **options):
    with pytest.raises(MlclError) as error:
        NUSWIDE(str(root), **options).read_split("train")
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


@pytest.fixture
def root(tmp_path):
    return write_nuswide(tmp_path / "nus", TRAIN, TEST)


def test_the_81_concepts():
    assert len(NUSWIDE_CLASSES) == 81 == NUSWIDE().num_classes
    assert list(NUSWIDE_CLASSES) == sorted(NUSWIDE_CLASSES)


@pytest.mark.parametrize("end", ["\n", "\r\n", "  \r\n"])
@pytest.mark.parametrize("folder", ["Flickr", "images"])
def test_the_original_files(tmp_path, end, folder):
    root = write_nuswide(tmp_path / "nus", TRAIN, TEST, end, folder)
    for split, photos in (("train", TRAIN), ("test", TEST)):
        assert found(NUSWIDE(str(root), protocol="official"), split, root / folder) == expected(photos)
        for options in ({}, {"labels": "original"}, {"protocol": "labelled"}):
            assert found(NUSWIDE(str(root), **options), split, root / folder) == expected(labelled(photos))
    data = NUSWIDE(str(root))
    assert data.read_split("val") is None
    data.prepare_data()


@pytest.mark.parametrize("header", ["filepath,label,split_name", "filename,label,split", ",label,"])
@pytest.mark.parametrize("name", ["nus_wid_data.csv", "nus_wide_data.csv"])
def test_the_table(tmp_path, header, name):
    root = write_nuswide_table(tmp_path, labelled(TRAIN), labelled(TEST), header)
    (root / "nus_wid_data.csv").rename(root / name)
    data = NUSWIDE(str(root))
    assert found(data, "train", root) == expected(labelled(TRAIN))
    assert found(data, "test", root) == expected(labelled(TEST))
    data.prepare_data()


def test_the_photos_of_the_table_may_lie_in_a_folder(tmp_path):
    write_nuswide_table(tmp_path, labelled(TRAIN), labelled(TEST))
    (tmp_path / "images").mkdir()
    for folder in ("actor", "zoo", "zebra"):
        shutil.move(tmp_path / folder, tmp_path / "images" / folder)
    assert found(NUSWIDE(str(tmp_path)), "train", tmp_path / "images") == expected(labelled(TRAIN))


def test_both_are_there(root):
    write_nuswide_table(root, {"a/1_1.jpg": ["cat"]}, {"a/2_2.jpg": ["dog"]})
    refused(root, root, "nus_wid_data.csv", "data.labels original or csv")
    for options, count in (({"labels": "csv"}, 1), ({"protocol": "csv"}, 1), ({"protocol": "labelled"}, 3)):
        assert len(NUSWIDE(str(root), **options).read_split("train").paths) == count
    refused(root, "data.protocol csv", "original", labels="original", protocol="csv")
    refused(root, "data.protocol official", "csv", labels="csv", protocol="official")


def test_neither_is_there(tmp_path, root):
    refused(tmp_path, tmp_path, "ImageList/", "nus_wid_data.csv", "data.root")
    refused(root, "nus_wid_data.csv", protocol="csv")
    for options in ({"labels": "mat"}, {"protocol": "all"}, {"images": "some"}):
        with pytest.raises(MlclError, match=f"data.{next(iter(options))}"):
            NUSWIDE(str(root), **options)


def test_the_fault_of_the_published_files_is_unknown(root):
    """Line 78,372 of Labels_lake_Train.txt is -1130179."""
    (root / FILES / "Labels_lake_Train.txt").write_text("-1130179\n-1130179\n0\n1\n")
    data, lake = NUSWIDE(str(root)), NUSWIDE_CLASSES.index("lake")
    # The second has no other label, so that it is none of those with a label, as in SADCL, which counts 125,449, too.
    assert data.read_split("train").targets[:, lake].tolist() == [-1, 0, 1]
    assert data.notes == {"train": "train: 2 labels are -1130179 in the published files; these are unknown"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:-1], ("Labels_dog_Train.txt", "3 labels", "4 images", "TrainImagelist.txt")),
        (lambda lines: [*lines, "0"], ("Labels_dog_Train.txt", "5 labels", "4 images")),
        (lambda lines: ["", *lines[1:]], ("Labels_dog_Train.txt", "3 labels")),
        (lambda lines: [lines[0], "2", *lines[2:]], ("Labels_dog_Train.txt", "label 2", "2 is neither")),
        (lambda lines: ["0 1", *lines[1:]], ("Labels_dog_Train.txt", "5 labels", "4 images")),
        (lambda lines: ["-1", *lines[1:]], ("label 1", "-1 is neither 0 nor 1")),
    ],
)
def test_labels_that_do_not_belong_to_the_list(root, change, words):
    file = root / FILES / "Labels_dog_Train.txt"
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
    refused(root, *words)


def test_lists_that_are_wrong(root):
    listing = root / "ImageList" / "TrainImagelist.txt"
    lines = listing.read_text().splitlines()
    for wrong, words in (
        ([*lines[:3], lines[0].replace("\\", "/")], ("TrainImagelist.txt", "actor/0001_2124494179.jpg twice")),
        ([*lines[:3], "..\\..\\secret.jpg"], ("../../secret.jpg", "out of")),
        ([*lines[:3], "/etc/secret.jpg"], ("/etc/secret.jpg", "out of")),
        ([*lines[:3], "a\0b.jpg"], ("TrainImagelist.txt", "cannot be a file's name")),
    ):
        listing.write_text("".join(f"{line}\n" for line in wrong))
        refused(root, *words)
    (root / "ConceptsList" / "Concepts81.txt").write_text("\n".join(NUSWIDE_CLASSES[:-1]))
    refused(root, "Concepts81.txt", "zebra")
    (root / "ConceptsList" / "Concepts81.txt").unlink()
    (root / FILES / "Labels_airport_Train.txt").unlink()
    refused(root, "Labels_airport_Train.txt", "data.root")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.jpg,\"['unicorn']\",train", ("row 2", "unicorn")),
        ("a.jpg,\"['cat' 'dog']\",train", ("row 2", "no list of names")),
        ("a.jpg,\"['cat']\",test", ("row 2", "'test'", "train or val")),
        ("a.jpg,['cat', 'dog'],train", ("row 2", "4 cells", "3")),
        ("../../a.jpg,\"['cat']\",train", ("../../a.jpg", "out of")),
        ("b/1.jpg,\"['cat']\",train", ("nus_wid_data.csv", "b/1.jpg twice")),
    ],
)
def test_tables_that_are_wrong(tmp_path, row, words):
    rows = ["filepath,label,split_name", row, "b/1.jpg,\"['cat']\",train"]
    (tmp_path / "nus_wid_data.csv").write_text("\n".join(rows))
    refused(tmp_path, *words)


@pytest.mark.parametrize("text", ["", "label,split\n", "filepath,labels,split_name\na.jpg,cat,train\n"])
def test_a_table_with_another_header(tmp_path, text):
    (tmp_path / "nus_wid_data.csv").write_text(text)
    refused(tmp_path, "nus_wid_data.csv", "label")


def test_photos_that_are_gone(root):
    gone = [root / "Flickr" / "zoo" / "0002_174174086.jpg", root / "Flickr" / "actor" / "0005_262041423.jpg"]
    for photo in gone:
        photo.unlink()
    with pytest.raises(MlclError, match=r"1 of 3 train images are missing.*--data.images present$"):
        NUSWIDE(str(root)).prepare_data()
    data = NUSWIDE(str(root), images="present")
    data.prepare_data()
    data.setup("fit")
    rest = {path: names for path, names in labelled(TRAIN).items() if path != "zoo/0002_174174086.jpg"}
    assert found(data, "train", root / "Flickr") == expected(rest)
    assert list(data.notes.values()) == [
        "train: 1 of 3 listed images are missing and left out (data.images present)",
        "test: 1 of 2 listed images are missing and left out (data.images present)",
    ]
    shutil.rmtree(root / "Flickr")
    assert len(NUSWIDE(str(root), images="present").read_split("train").paths) == 0


@pytest.mark.parametrize("write", [write_nuswide, pytest.param(write_nuswide_table, marks=pytest.mark.slow)])
def test_a_training_and_a_check(mlcl, tmp_path, write):
    train = {f"sky/{i:04d}_{i}.jpg": ["clouds", "sky"] if i % 2 else ["dog"] for i in range(8)}
    test = {f"sky/{i:04d}_{i}.jpg": ["sky"] if i % 3 else ["dog"] for i in range(8, 12)}
    root = write(tmp_path / "nus", train, test)
    flags, small = one_epoch_of("nuswide", root)
    checked = mlcl("check", *flags)
    assert checked.status == 0, checked.err
    assert "8 train and 4 test images, 81 classes: these counts fit no published table of NUSWIDE" in checked.out
    trained = mlcl("fit", *flags, *small)
    assert trained.status == 0, trained.err
    assert "results in" in trained.out


def test_a_name_that_no_file_system_takes_is_a_photo_that_is_missing(root):
    listing = root / "ImageList" / "TrainImagelist.txt"
    long = "x" * 300
    listing.write_text("\n".join([f"{long}\\{long}.jpg", *listing.read_text().splitlines()[1:]]))
    assert len(NUSWIDE(str(root), images="present").read_split("train").paths) == 2
    with pytest.raises(MlclError, match="1 of 3 train images are missing"):
        NUSWIDE(str(root)).prepare_data()
