import numpy as np
import pytest
from support.trees import REAL_DATA, WHY_NO_REAL_DATA, write_voc

from mlcl.data.voc import VOC2007, VOC2012, VOC_CLASSES
from mlcl.errors import MlclError

TRAINVAL = {
    "000005": {"cat": 1, "dog": 0, "train": 1},
    "000007": {"person": 1},
    "000009": {"person": 0},
}
TEST = {"000001": {"dog": 1, "person": 0}, "000002": {"tvmonitor": 1}}


@pytest.fixture
def root(tmp_path):
    write_voc(tmp_path, {"trainval": TRAINVAL, "test": TEST, "train": dict(list(TRAINVAL.items())[:2])})
    return tmp_path


@pytest.fixture
def lists(root):
    return root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"


def row(**codes):
    return [codes.get(name, 0) for name in VOC_CLASSES]


def one_line(error, *words):
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


def test_the_20_classes_of_voc():
    assert len(VOC_CLASSES) == 20
    assert list(VOC_CLASSES) == sorted(VOC_CLASSES)
    assert VOC2007().num_classes == VOC2012().num_classes == 20


def test_flags_are_decoded_and_difficult_is_unknown(root):
    data = VOC2007(str(root))
    train, test = data.read_split("train"), data.read_split("test")
    assert [path.name for path in train.paths] == ["000005.jpg", "000007.jpg", "000009.jpg"]
    assert train.targets.tolist() == [row(cat=1, dog=-1, train=1), row(person=1), row(person=-1)]
    assert test.targets.tolist() == [row(dog=1, person=-1), row(tvmonitor=1)]
    assert train.targets.dtype == np.int8
    assert all(path.is_file() for path in [*train.paths, *test.paths])
    assert data.read_split("val") is None
    data.prepare_data()


@pytest.mark.parametrize(
    ("settings", "in_train", "in_test"),
    [
        ({}, -1, -1),
        ({"difficult": "negative"}, 0, 0),
        ({"train_difficult": "negative"}, 0, -1),
        ({"difficult": "negative", "train_difficult": "ignore"}, -1, 0),
    ],
)
def test_difficult_may_differ_between_training_and_test(root, settings, in_train, in_test):
    data = VOC2007(str(root), **settings)
    assert data.read_split("train").targets[0, VOC_CLASSES.index("dog")] == in_train
    assert data.read_split("test").targets[0, VOC_CLASSES.index("person")] == in_test


@pytest.mark.parametrize("name", ["difficult", "train_difficult"])
def test_another_treatment_of_difficult_is_refused(name):
    with pytest.raises(MlclError) as error:
        VOC2007(**{name: "skip"})
    one_line(error, f"data.{name}", "skip", "ignore", "negative")


@pytest.mark.parametrize(("empty_images", "train"), [("keep", 3), ("drop", 2)])
def test_an_image_with_only_difficult_objects_has_no_label(root, empty_images, train):
    data = VOC2007(str(root), empty_images=empty_images)
    data.setup("fit")
    assert len(data.splits["train"].paths) == train


def test_the_class_train_and_the_set_train_are_told_apart(root, lists):
    """The set ``train`` of the class ``train`` is in ``train_train.txt``."""
    assert (lists / "train_train.txt").is_file()
    assert (lists / "train.txt").is_file()
    targets = VOC2007(str(root), train_split="train").read_split("train").targets
    assert targets.tolist() == [row(cat=1, dog=-1, train=1), row(person=1)]


@pytest.mark.parametrize("below", [".", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_the_root_may_be_any_folder_down_to_the_devkit(root, below):
    data = VOC2007(str(root / below))
    data.prepare_data()
    assert data.read_split("train").paths[0] == root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000005.jpg"


def test_2012_has_its_own_folder_and_sets(tmp_path):
    images = {"2008_000002": {"tvmonitor": 1}, "2008_000003": {"train": 1, "person": 1}}
    write_voc(tmp_path, {"train": images, "val": {"2008_000007": {"boat": 1}}}, year="2012")
    data = VOC2012(str(tmp_path))
    data.prepare_data()
    assert data.read_split("train").targets.tolist() == [row(tvmonitor=1), row(train=1, person=1)]
    assert data.read_split("test").targets.tolist() == [row(boat=1)]
    with pytest.raises(MlclError, match="VOC2007"):
        VOC2007(str(tmp_path)).read_split("train")


def test_an_empty_set_is_told_when_it_is_used(root, lists):
    for file in lists.glob("*trainval.txt"):
        file.write_text("\n")
    data = VOC2007(str(root))
    assert data.read_split("train").targets.shape == (0, 20)
    data.setup("fit")
    with pytest.raises(MlclError, match="has no train images"):
        data.train_dataloader()


# --- Class files that leave images out


def leave_out(lists, image, names=VOC_CLASSES, image_set="trainval"):
    """Remove the image's line from the files of these classes."""
    for name in names:
        file = lists / f"{name}_{image_set}.txt"
        file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(image)))


@pytest.mark.parametrize(
    ("image", "names"),
    [("000007", VOC_CLASSES), ("000009", ("cat", "dog")), ("000005", VOC_CLASSES[1:]), ("000005", ("dog",))],
)
def test_an_image_that_class_files_leave_out_is_absent_there(root, lists, image, names):
    before = VOC2007(str(root)).read_split("train")
    leave_out(lists, image, names)
    data = VOC2007(str(root))
    after = data.read_split("train")
    assert sorted(after.paths) == sorted(before.paths)
    rows = {path.stem: row.copy() for path, row in zip(before.paths, before.targets, strict=True)}
    rows[image][[VOC_CLASSES.index(name) for name in names]] = 0
    assert {path.stem: row.tolist() for path, row in zip(after.paths, after.targets, strict=True)} == {
        name: row.tolist() for name, row in rows.items()
    }
    assert data.notes["train"].startswith("train: 1 images are not in every class's file")


def test_what_class_files_leave_out_is_said(root, lists, capsys):
    leave_out(lists, "000007")
    leave_out(lists, "000009", ("cow",))
    VOC2007(str(root)).setup("fit")
    said, train, *_ = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: train: 2 images are not in every class's file")
    assert train.startswith("train 3 images")


def test_a_file_with_the_images_of_its_class_alone(root, lists):
    """As some exporters write them: a line only where the flag is 1."""
    for name in VOC_CLASSES:
        file = lists / f"{name}_trainval.txt"
        file.write_text("".join(line for line in file.read_text().splitlines(True) if line.endswith(" 1\n")))
    train = VOC2007(str(root)).read_split("train")
    rows = dict(zip((path.stem for path in train.paths), train.targets.tolist(), strict=True))
    assert rows == {"000005": row(cat=1, train=1), "000007": row(person=1), "000009": row()}


def test_the_order_of_the_class_files_is_kept(root, lists):
    """Where they list every image, as all did before: which images are held out depends on it."""
    (lists / "trainval.txt").write_text("000009\n000005\n000007\n")
    assert [path.stem for path in VOC2007(str(root)).read_split("train").paths] == ["000005", "000007", "000009"]
    (lists / "trainval.txt").unlink()
    assert [path.stem for path in VOC2007(str(root)).read_split("train").paths] == ["000005", "000007", "000009"]


@pytest.mark.parametrize("text", ["000005\r\n\r\n000007\r\n000009", "\ufeff000005\n 000007 \n\n000009\n\n"])
def test_the_list_of_a_set_may_have_blank_lines_and_any_line_ends(root, lists, text):
    leave_out(lists, "000007")
    (lists / "trainval.txt").write_bytes(text.encode())
    assert len(VOC2007(str(root)).read_split("train").paths) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("000005\n000007\n000007\n000009\n", ("trainval.txt lists 000007 twice",)),
        ("000005\n000007 1\n000009\n", ("trainval.txt, line 2: each line must be an image",)),
        ("000005\n000007\n", ("aeroplane_trainval.txt lists other images than", "000009")),
        ("", ("aeroplane_trainval.txt lists other images than", "000005")),
        ("000005\n000007\n000009\n../../../x\n", ("leads out of the dataset's folder",)),
        ("000005\n000007\n000009\n000010\n", ("1 of 4 train images are missing", "000010.jpg")),
    ],
)
def test_a_list_of_a_set_that_cannot_be_is_told(root, lists, text, words):
    (lists / "trainval.txt").write_text(text)
    with pytest.raises(MlclError) as error:
        VOC2007(str(root)).prepare_data()
    one_line(error, *words)


@pytest.mark.parametrize("text", ["000005 -1\n000007 -1\n", "000005 -1\n000007 -1\n000009 -1\n000010 -1\n", ""])
def test_without_the_list_of_the_set_all_class_files_must_agree(root, lists, text):
    (lists / "trainval.txt").unlink()
    (lists / "cow_trainval.txt").write_text(text)
    with pytest.raises(MlclError) as error:
        VOC2007(str(root)).read_split("train")
    one_line(error, lists / "cow_trainval.txt", lists / "aeroplane_trainval.txt", "lists other images")


# --- What is wrong, in one line


def test_a_missing_class_file_is_named(root, lists):
    (lists / "sofa_trainval.txt").unlink()
    with pytest.raises(MlclError) as error:
        VOC2007(str(root)).read_split("train")
    one_line(error, lists / "sofa_trainval.txt", "missing", "--data.root", "--data.download")


def test_a_missing_root_names_where_the_files_should_be(tmp_path):
    with pytest.raises(MlclError) as error:
        VOC2012(str(tmp_path / "nothing")).prepare_data()
    one_line(error, tmp_path / "nothing" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main", "--data.root")


def test_a_set_that_does_not_exist_is_named(root):
    with pytest.raises(MlclError, match=r"aeroplane_minival\.txt is missing"):
        VOC2007(str(root), train_split="minival").read_split("train")


@pytest.mark.parametrize("line", ["000005", "000005 1 1", "000005 2", "000005 yes", "1.0 000005", "000005 \xb2"])
def test_a_malformed_line_is_told_with_its_file(root, lists, line):
    (lists / "cow_trainval.txt").write_text(f"{line}\n000007 -1\n000009 -1\n", encoding="utf-8")
    with pytest.raises(MlclError) as error:
        VOC2007(str(root)).read_split("train")
    one_line(error, lists / "cow_trainval.txt", "1, 0 or -1")


def test_bytes_that_are_no_text_are_told_with_their_file(root, lists):
    (lists / "cow_trainval.txt").write_bytes(b"\xff\xfe\x80\n000007 -1\n")
    with pytest.raises(MlclError) as error:
        VOC2007(str(root)).read_split("train")
    one_line(error, lists / "cow_trainval.txt")


def test_an_image_that_the_list_of_the_set_does_not_have_is_told(root, lists):
    (lists / "cow_trainval.txt").write_text("000009 -1\n000005 -1\n000007 -1\n")  # in another order
    VOC2007(str(root)).read_split("train")
    (lists / "cow_trainval.txt").write_text("000005 -1\n000007 -1\n000008 -1\n")
    with pytest.raises(MlclError) as error:
        VOC2007(str(root)).read_split("train")
    one_line(error, lists / "cow_trainval.txt", lists / "trainval.txt", "000008")


def test_an_absent_image_is_named(root):
    image = root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000007.jpg"
    image.unlink()
    with pytest.raises(MlclError) as error:
        VOC2007(str(root)).prepare_data()
    one_line(error, "1 of 3 train images", image)


def test_windows_line_ends_and_blank_lines_are_read(root, lists):
    for file in lists.glob("*_test.txt"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert VOC2007(str(root)).read_split("test").targets.tolist()[1] == row(tvmonitor=1)


# --- The real files


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=WHY_NO_REAL_DATA)
@pytest.mark.parametrize(
    ("dataset", "year", "train", "test"), [(VOC2007, 2007, 126, 61), (VOC2012, 2012, 300, 300)], ids=["2007", "2012"]
)
@pytest.mark.parametrize("difficult", ["ignore", "negative"])
def test_the_real_slices_agree_with_the_full_label_matrices(dataset, year, train, test, difficult):
    data = dataset(str(REAL_DATA / f"voc{year}"), difficult=difficult)
    data.prepare_data()
    with np.load(REAL_DATA / "labels" / f"voc{year}_labels.npz") as full:
        ids, labels, classes = full["ids"].tolist(), full["labels"], full["classes"]
    assert tuple(classes.tolist()) == VOC_CLASSES
    of_flag = {1: 1, 0: -1 if difficult == "ignore" else 0, -1: 0}
    for split, count in (("train", train), ("test", test)):
        samples = data.read_split(split)
        assert len(samples.paths) == count
        flags = labels[[ids.index(path.stem) for path in samples.paths]]
        np.testing.assert_array_equal(samples.targets, np.vectorize(of_flag.get)(flags))


def test_what_annotation_tools_call_voc_is_refused_with_what_to_do(tmp_path):
    """Lists of own classes, as Datumaro writes them; XML files alone, beside the pictures or in a folder."""
    lists = tmp_path / "lists" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name in ("background", "emu", "cat"):
        (lists / f"{name}_train.txt").write_text("1 -1\n")
    for folder in ("beside", "apart/Annotations"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.xml").write_text("<annotation/>")
    for folder, found in (("lists", "Main has background, emu"), ("beside", "has 1.xml"), ("apart", "has 1.xml")):
        with pytest.raises(
            MlclError, match=rf"{found}, but no list of aeroplane: .*docs/interop.md.*COCOJSON"
        ) as error:
            VOC2012(root=str(tmp_path / folder)).read_split("train")
        assert "\n" not in str(error.value)
