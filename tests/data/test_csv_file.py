from pathlib import Path

import numpy as np
import pytest
from support.trees import write_pictures, write_table

from mlcl.data.csv_file import CSVDataset
from mlcl.errors import MlclError

COLUMNS = ["image,cat,dog,split", "a.jpg,1,0,train", "b.jpg,0,-1,val", "c.png,,1,test", "d.jpg,1.0,0.0,train"]
NAMES = ["image,labels", "a.jpg,cat;dog", "b.jpg,", "c.jpg,dog; emu ;"]


@pytest.fixture
def table(tmp_path):
    """Write a table, with its pictures, and make the dataset of it."""

    def make(rows, **settings):
        return CSVDataset(root=str(write_table(tmp_path, rows)), **settings)

    return make


def names(samples):
    return [path.name for path in samples.paths]


def many(count):
    return ["image,cat", *(f"{i}.jpg,{i % 2}" for i in range(count))]


def one_line(error, *words):
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


# --- Labels


def test_a_column_per_class_with_unknowns(table):
    data = table(COLUMNS)
    assert data.classes == ("cat", "dog")
    assert data.read_split("train").targets.tolist() == [[1, 0], [1, 0]]
    assert data.read_split("val").targets.tolist() == [[0, -1]]
    assert data.read_split("test").targets.tolist() == [[-1, 1]]
    assert data.read_split("test").targets.dtype == np.int8


def test_a_column_of_names(table):
    data = table(NAMES, labels_column="labels")
    assert data.classes == ("cat", "dog", "emu")
    assert data.read_split("train").targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]


def test_the_names_of_every_table_make_the_classes(table, tmp_path):
    write_table(tmp_path, ["image,labels", "z.jpg,yak"], "test.csv")
    data = table(NAMES, labels_column="labels", test_csv="test.csv")
    assert data.classes == ("cat", "dog", "emu", "yak")
    assert data.read_split("test").targets.tolist() == [[0, 0, 0, 1]]


def test_given_classes_fix_their_order_and_which_columns_count(table):
    data = table(COLUMNS, classes=["dog", "cat"])
    assert data.read_split("train").targets.tolist() == [[0, 1], [0, 1]]
    assert table(COLUMNS, classes=["dog"]).read_split("test").targets.tolist() == [[1]]
    assert table(NAMES, labels_column="labels", classes=["emu", "dog", "cat", "yak"]).num_classes == 4


def test_the_columns_may_have_other_names(table):
    rows = ["file,part,cat", "a.jpg,train,1", "b.jpg,test,0"]
    data = table(rows, image_column="file", split_column="part")
    assert data.classes == ("cat",)
    assert names(data.read_split("test")) == ["b.jpg"]


# --- The file


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_every_way_to_save_a_table(tmp_path, start, end):
    (tmp_path / "labels.csv").write_bytes((start + end.join(COLUMNS) + end).encode())
    data = CSVDataset(root=str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert names(data.read_split("train")) == ["a.jpg", "d.jpg"]


def test_quotes_commas_blanks_and_blank_lines(table):
    rows = ["image, cat ,labels", '"a, b.jpg", 1 ,"x, y;z"', "", '"c ""d"".jpg",0,', " , ,"]
    data = table(rows, labels_column="labels")
    assert data.classes == ("x, y", "z")
    assert names(data.read_split("train")) == ["a, b.jpg", 'c "d".jpg']
    assert table([row.rpartition(",")[0] for row in (rows[0], "a.jpg, 1 ,", "b.jpg,0,")]).classes == ("cat",)


def test_a_line_end_inside_quotes_belongs_to_the_cell(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b'image,note,labels\r\na.jpg,"one\r\ntwo",cat\r\nb.jpg,,dog\r\n')
    data = CSVDataset(root=str(tmp_path), labels_column="labels")
    assert names(data.read_split("train")) == ["a.jpg", "b.jpg"]


def test_names_outside_ascii(table):
    data = table(["image,labels", "é.jpg,Kühe;猫"], labels_column="labels")
    assert data.classes == ("Kühe", "猫")
    data.prepare_data()


def test_paths_start_at_the_root_and_may_be_absolute(tmp_path):
    (tmp_path / "labels.csv").write_text("image,cat\nsub/a.jpg,1\n/elsewhere/b.jpg,0\n")
    paths = CSVDataset(root=str(tmp_path)).read_split("train").paths
    assert paths == [tmp_path / "sub" / "a.jpg", Path("/elsewhere/b.jpg")]


# --- Splits


def test_splits_by_column(table):
    data = table(COLUMNS)
    assert [names(data.read_split(split)) for split in ("train", "val", "test")] == [
        ["a.jpg", "d.jpg"],
        ["b.jpg"],
        ["c.png"],
    ]
    data.prepare_data()


def test_a_split_that_the_column_does_not_name_is_absent(table):
    data = table(["image,cat,split", "a.jpg,1, Train ", "b.jpg,0,TEST"])
    assert data.read_split("val") is None
    assert names(data.read_split("train")) == ["a.jpg"]
    data.setup("fit")
    assert data.splits["val"] is data.splits["test"]


def test_splits_by_file(table, tmp_path):
    write_table(tmp_path, ["image,dog,cat", "v.jpg,1,0"], "val.csv")
    write_table(tmp_path, ["image,cat,dog,more", "t.jpg,0,1,x", "u.jpg,1,,y"], "test.csv")
    data = table(["image,cat,dog", "a.jpg,1,0"], val_csv="val.csv", test_csv="test.csv")
    assert data.classes == ("cat", "dog")
    assert names(data.read_split("train")) == ["a.jpg"]
    assert data.read_split("val").targets.tolist() == [[0, 1]]  # by name, not by position
    assert data.read_split("test").targets.tolist() == [[0, 1], [1, -1]]
    only_val = table(["image,cat,dog", "a.jpg,1,0"], val_csv="val.csv")
    assert only_val.read_split("test") is None


def test_splits_by_fraction_are_disjoint_and_cover_all(table):
    data = table(many(20), test_fraction=0.25, val_fraction=0.2, split_seed=4)
    data.setup("fit")
    parts = {split: set(names(samples)) for split, samples in data.splits.items()}
    assert {split: len(part) for split, part in parts.items()} == {"train": 12, "val": 3, "test": 5}
    assert set.union(*parts.values()) == {f"{i}.jpg" for i in range(20)}
    for split, samples in data.splits.items():
        assert [int(path.stem) % 2 for path in samples.paths] == samples.targets[:, 0].tolist(), split


def test_a_fraction_depends_on_the_split_seed_alone(table, monkeypatch):
    def test_images(**settings):
        return names(table(many(20), test_fraction=0.25, **settings).read_split("test"))

    first = test_images(split_seed=4)
    monkeypatch.setenv("PL_GLOBAL_SEED", "99")
    np.random.seed(99)
    assert test_images(split_seed=4) == first
    assert test_images(split_seed=5) != first


def test_without_a_fraction_every_row_trains(table):
    data = table(many(5))
    assert len(data.read_split("train").paths) == 5
    assert data.read_split("test") is None
    assert data.read_split("val") is None


# --- Another process


def test_the_portable_arguments_make_the_same_dataset_in_another_folder(table, tmp_path, monkeypatch):
    write_table(tmp_path / "a", many(6))
    monkeypatch.chdir(tmp_path)
    first = CSVDataset(root="a", test_fraction=0.5)
    portable = first.portable_arguments()
    monkeypatch.chdir("/")
    again = CSVDataset(test_fraction=0.5, **portable)
    assert again.classes == first.classes
    assert again.read_split("test").paths == [tmp_path / path for path in first.read_split("test").paths]


def test_the_portable_classes_outlive_a_table_that_shows_fewer(table):
    portable = table(NAMES, labels_column="labels").portable_arguments()
    assert portable["classes"] == ["cat", "dog", "emu"]
    smaller = table(["image,labels", "a.jpg,dog"], labels_column="labels", classes=portable["classes"])
    assert smaller.read_split("train").targets.tolist() == [[0, 1, 0]]


# --- What is wrong, in one line


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (COLUMNS, {"image_column": "file"}, ("labels.csv", "'file'", "image, cat, dog, split")),
        (COLUMNS, {"labels_column": "tags"}, ("labels.csv", "'tags'")),
        (COLUMNS, {"test_fraction": 1.0}, ("data.test_fraction", "1.0")),
        (COLUMNS, {"csv": "other.csv"}, ("other.csv", "cannot be read", "data.csv")),
        (COLUMNS, {"val_csv": "other.csv"}, ("other.csv", "cannot be read")),
        (COLUMNS, {"csv": "."}, ("cannot be read", "data.csv")),
        (["image,cat"], {}, ("labels.csv", "is empty")),
        ([], {}, ("labels.csv", "is empty")),
        (["image,split", "a.jpg,train"], {}, ("names no class", "data.classes")),
        (["image,cat,cat", "a.jpg,1,0"], {}, ("labels.csv", "two columns 'cat'")),
        ([*COLUMNS, "e.jpg,1,0"], {}, ("row 6", "3 cells", "4")),
        ([*COLUMNS, "e.jpg,1,0,train,9"], {}, ("row 6", "5 cells", "4")),
        (["image,labels", "a.jpg,"], {"labels_column": "labels"}, ("names no class",)),
    ],
)
def test_a_table_that_cannot_be_used_is_told_at_once(table, rows, settings, words):
    with pytest.raises(MlclError) as error:
        table(rows, **settings)
    one_line(error, *words)


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([*COLUMNS, "e.jpg,yes,0,train"], {}, ("row 6", "'yes'", "'cat'", "1, 0, -1")),
        ([*COLUMNS, "e.jpg,1,2,train"], {}, ("row 6", "'2'", "'dog'")),
        ([*COLUMNS, "e.jpg,1,0,training"], {}, ("labels.csv", "'training'", "train, val or test")),
        ([*COLUMNS, "e.jpg,1,0,"], {}, ("labels.csv", "''", "train, val or test")),
        (COLUMNS, {"classes": ["cat", "yak"]}, ("labels.csv", "'yak'")),
        (NAMES, {"labels_column": "labels", "classes": ["cat", "dog"]}, ("row 4", "'emu'", "cat, dog")),
    ],
)
def test_a_value_that_is_no_label_is_told_with_its_row(table, rows, settings, words):
    with pytest.raises(MlclError) as error:
        table(rows, **settings).prepare_data()
    one_line(error, *words)


def test_a_column_missing_in_another_file_is_told_with_that_file(table, tmp_path):
    write_table(tmp_path, ["image,cat", "t.jpg,0"], "test.csv")
    with pytest.raises(MlclError) as error:
        table(["image,cat,dog", "a.jpg,1,0"], test_csv="test.csv").prepare_data()
    one_line(error, "test.csv", "'dog'")
    assert "labels.csv" not in str(error.value)


@pytest.mark.parametrize("content", [b"image,cat\n\xff\xfe.jpg,1\n", b'image,cat\na.jpg,"' + b"1" * 200_000])
def test_a_file_that_is_no_table_is_named(tmp_path, content):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(MlclError) as error:
        CSVDataset(root=str(tmp_path))
    one_line(error, tmp_path / "labels.csv")


def test_an_absent_picture_is_named(table, tmp_path):
    data = table(COLUMNS)
    (tmp_path / "d.jpg").unlink()
    with pytest.raises(MlclError) as error:
        data.prepare_data()
    one_line(error, "1 of 2 train images", tmp_path / "d.jpg", "--data.root")


def test_blank_lines_count_in_the_number_of_a_row(table):
    with pytest.raises(MlclError, match="row 5: 'yes'"):
        table(["", "image,cat", "", "a.jpg,1", "b.jpg,yes"]).prepare_data()
    with pytest.raises(MlclError, match="row 3: 1 cells"):
        table(["image,cat", "", "a.jpg"])


def test_minus_one_among_names_is_an_image_whose_labels_are_unknown(tmp_path):
    write_table(tmp_path, ["image,labels", "1.jpg,cat;dog", "2.jpg,-1", "3.jpg,"])
    data = CSVDataset(root=str(tmp_path), labels_column="labels")
    assert data.classes == ("cat", "dog")
    assert data.read_split("train").targets.tolist() == [[1, 1], [-1, -1], [0, 0]]


def test_a_row_without_a_picture_is_named(tmp_path):
    write_table(tmp_path, ["image,cat", "1.jpg,1", ",0"])
    with pytest.raises(MlclError, match=r"labels.csv, row 3, column image: '' is no file name"):
        CSVDataset(root=str(tmp_path))


# --- Tables of annotation tools, whose pictures are not where the table says


def test_pictures_that_are_nowhere_as_written_are_found_by_name_alone(tmp_path):
    """Label Studio writes where a picture was on its server."""
    write_table(tmp_path, ["labels,image", "cat,/data/upload/1/a.jpg", ",/data/upload/1/b.jpg"])
    write_pictures(tmp_path / "images", ["a.jpg", "b.jpg"])
    data = CSVDataset(root=str(tmp_path), labels_column="labels")
    assert data.read_split("train").paths == [tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg"]
    assert data.notes["labels.csv pictures"].endswith("images by name alone")
    again = CSVDataset(**{"labels_column": "labels", **data.portable_arguments()})
    assert again.read_split("train").paths == data.read_split("train").paths


def test_pictures_beside_their_table(tmp_path):
    """Roboflow: a folder for each split, with ``_classes.csv`` and its pictures, and a blank after each comma."""
    for folder, name in (("train", "a.jpg"), ("valid", "b.jpg"), ("test", "c.jpg")):
        write_table(tmp_path / folder, ["filename, cat, dog", f"{name}, 1, 0"], "_classes.csv")
        write_pictures(tmp_path / folder, [name])
    tables = {f"{name}csv": f"{at}/_classes.csv" for name, at in (("", "train"), ("val_", "valid"), ("test_", "test"))}
    data = CSVDataset(root=str(tmp_path), image_column="filename", **tables)
    data.prepare_data()
    for split, path in (("train", "train/a.jpg"), ("val", "valid/b.jpg"), ("test", "test/c.jpg")):
        samples = data.read_split(split)
        assert samples.paths == [tmp_path / path] and samples.targets.tolist() == [[1, 0]]


def test_where_some_pictures_are_there_the_others_are_missing(tmp_path):
    write_table(tmp_path, ["cat,image", "1,x/a.jpg", "0,x/b.jpg"])
    write_pictures(tmp_path / "x", ["a.jpg"])
    write_pictures(tmp_path, ["b.jpg"])
    data = CSVDataset(root=str(tmp_path))
    assert data.read_split("train").paths == [tmp_path / "x" / "a.jpg", tmp_path / "x" / "b.jpg"] and not data.notes


def test_two_pictures_of_one_name_are_never_one(tmp_path):
    write_table(tmp_path, ["cat,image", "1,x/a.jpg", "0,y/a.jpg"])
    write_pictures(tmp_path, ["a.jpg"])
    assert CSVDataset(root=str(tmp_path)).read_split("train").paths == [tmp_path / "x/a.jpg", tmp_path / "y/a.jpg"]
