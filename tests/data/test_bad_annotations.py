"""What others wrote and saved: every table, list and JSON file is read as meant, or is one line that says where."""

import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.trees import coco_json, write_coco, write_pictures, write_voc

from mlcl.data.coco import COCO2014, read_coco
from mlcl.data.csv_file import CSVDataset
from mlcl.data.file_names import checked
from mlcl.data.voc import VOC2007, VOC_CLASSES
from mlcl.errors import MlclError

CATEGORIES = {1: "cat", 2: "dog"}
LONG = "n" * 100_000


def refusal(read) -> str:
    """The one line that it ends in, of a length that a terminal shows."""
    with pytest.raises(MlclError) as error:
        read()
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


# --- COCO


class Animals(COCO2014):
    """The layout of COCO with two classes."""

    classes = ("cat", "dog")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def coco(tmp_path):
    """Change the training annotations of a small tree; returns how to read and check it."""
    root = write_coco(tmp_path / "coco", CATEGORIES, {1: [1], 2: [2], 3: []}, {4: [1]})
    file = root / "annotations" / "instances_train2014.json"

    def make(change):
        content = json.loads(file.read_text())
        changed = change(content) or content
        file.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
        return Animals(str(root)).prepare_data

    make.root = root
    return make


def put(where, key, value, number=1):
    return lambda content: content[where][number].update({key: value})


def whole(function):
    return lambda content: function(json.dumps(content, indent=1))


COCO_MISTAKES = {
    "truncated": (whole(lambda text: text[:600].encode()), ": line "),
    "no images": (lambda c: c.pop("images") and None, "it has no list 'images'"),
    "no annotations": (lambda c: c.pop("annotations") and None, "it has no list 'annotations'"),
    "images is a dict": (lambda c: c.update(images={}), "it has no list 'images'"),
    "image without id": (lambda c: c["images"][1].pop("id") and None, "images[1]: id is None"),
    "image without name": (lambda c: c["images"][1].pop("file_name") and None, "images[1]: file_name is None"),
    "unknown category": (put("annotations", "category_id", 9), "annotations[1]: category 9 is unknown"),
    "category NaN": (put("annotations", "category_id", float("nan")), "annotations[1]: category_id is nan"),
    "category a list": (put("annotations", "category_id", [1]), "annotations[1]: category_id is [1]"),
    "image_id null": (put("annotations", "image_id", None), "annotations[1]: image_id is None"),
    "image_id a dict": (put("annotations", "image_id", {}), "annotations[1]: image_id is {}"),
    "two images of one id": (put("images", "id", 1), "two of the images have the id 1"),
    "two categories of one id": (put("categories", "id", 1), "two of the categories have the id 1"),
    "id NaN": (put("images", "id", float("nan")), "images[1]: id is nan"),
    "id null": (put("images", "id", None), "images[1]: id is None"),
    "name NaN": (put("images", "file_name", float("nan")), "images[1]: file_name is nan"),
    "name null": (put("images", "file_name", None), "images[1]: file_name is None"),
    "name empty": (put("images", "file_name", " "), "image 2: ' ' is no file name"),
    "name of 100,000 characters": (put("images", "file_name", LONG), "images[1]: file_name is 'nnn"),
    "name with a zero byte": (put("images", "file_name", "a\0b.jpg"), r"'a\x00b.jpg' cannot be a file's name"),
    "name with half a surrogate": (put("images", "file_name", "\ud800.jpg"), r"'\ud800.jpg' cannot be a file's name"),
    "category name null": (put("categories", "name", None), "categories[1]: name is None"),
    "category name of 100,000 characters": (put("categories", "name", LONG), "categories[1]: name is 'nnn"),
    "climbs out": (put("images", "file_name", "../../x.jpg"), "../../x.jpg leads out of the dataset's folder"),
    "climbs far out": (put("images", "file_name", "a/../../../etc/passwd"), "leads out of the dataset's folder"),
    "absolute": (put("images", "file_name", "/etc/passwd"), "/etc/passwd leads out of the dataset's folder"),
    "absent": (put("images", "file_name", "absent.jpg"), "1 of 3 train images are missing, the first is "),
    "a folder as name": (put("images", "file_name", "./"), "image 2: './' is no file name"),
    "UTF-16": (whole(lambda text: text.encode("utf-16")), "can't decode byte 0xff in position 0"),
    "Latin-1": (whole(lambda text: text.replace("cat", "é").encode("latin-1")), "can't decode byte 0xe9"),
    "zero bytes": (lambda c: bytes(5000), "is not a COCO annotation file"),
    "without end": (lambda c: b"[" * 200_000, "nested without end"),
    "a number without end": (lambda c: b"9" * 10_000, "is not a COCO annotation file"),
}  # fmt: skip


@pytest.mark.parametrize("name", COCO_MISTAKES)
def test_coco(coco, name):
    change, words = COCO_MISTAKES[name]
    line = refusal(coco(change))
    assert words in line and ("instances_train2014.json" in line or "missing, the first" in line), line


@pytest.mark.parametrize(
    "change",
    [
        whole(lambda text: b"\xef\xbb\xbf" + text.encode()),
        whole(lambda text: text.replace("\n", "\r\n").encode()),
        lambda c: c["annotations"][0].pop("id") and None,
        put("annotations", "id", 1),  # two objects of one id
        put("images", "id", "2"),  # beside numbers
        put("annotations", "area", float("nan")),
        put("annotations", "image_id", 999, 0),  # of an image that is not listed
    ],
    ids=["bom", "crlf", "object without id", "two objects of one id", "an id as text", "NaN area", "unlisted image"],
)
def test_what_does_no_harm_in_coco(coco, change):
    coco(change)()


def test_a_name_may_wander_inside_the_dataset_and_a_link_may_lead_out(coco, tmp_path):
    write_pictures(tmp_path / "elsewhere", ["far.jpg"])
    (coco.root / "train2014" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "far.jpg")
    (coco.root / "train2014" / "folder").symlink_to(tmp_path / "elsewhere")

    def change(content):
        content["images"][0]["file_name"] = "link.jpg"
        content["images"][1]["file_name"] = "folder/far.jpg"
        content["images"][2]["file_name"] = "../val2014/000000000004.jpg"

    coco(change)()


def test_more_on_disk_than_in_the_list_is_fine(coco):
    write_pictures(coco.root / "train2014", ["unlisted.jpg"])
    coco(lambda content: None)()


# --- VOC


@pytest.fixture
def voc(tmp_path):
    flags = {"a": {"cat": 1}, "b": {"dog": 0}}
    write_voc(tmp_path, {"trainval": flags, "test": flags})
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    (lists / "trainval.txt").unlink()  # so that the files of the classes say which images there are

    def make(change, names=VOC_CLASSES):
        for name in names:
            file = lists / f"{name}_trainval.txt"
            file.write_bytes(change(file.read_bytes()))
        return VOC2007(str(tmp_path)).prepare_data

    return make


def renamed(name):
    return lambda data: data.replace(b"b ", f"{name} ".encode())


VOC_MISTAKES = {
    "truncated": (lambda data: data[:-2], "aeroplane_trainval.txt, line 2: each line must be an image and 1, 0 or -1"),
    "NaN": (lambda data: data.replace(b"-1", b"nan", 1), "line 1: each line"),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "line 1: each line"),
    "twice": (renamed("a"), "aeroplane_trainval.txt lists a twice"),
    "climbs out": (renamed("../../../../x"), "../../../../x.jpg leads out of the dataset's folder"),
    "absolute": (renamed("/etc/x"), "/etc/x.jpg leads out of the dataset's folder"),
    "absent": (renamed("c"), "1 of 2 train images are missing"),
    "long": (renamed(LONG), "1 of 2 train images are missing, the first is "),
    "zero byte": (renamed("b\0"), r"'b\x00' cannot be a file's name"),
}


@pytest.mark.parametrize("name", VOC_MISTAKES)
def test_voc(voc, name):
    change, words = VOC_MISTAKES[name]
    assert words in refusal(voc(change))


def test_a_byte_order_mark_does_no_harm_in_voc(voc):
    voc(lambda data: b"\xef\xbb\xbf" + data)()


# --- CSV

ROWS = ["image,cat,dog,split", "a.jpg,1,0,train", "é.jpg,,-1,train", "c.jpg,0,1,test"]


@pytest.fixture
def table(tmp_path):
    write_pictures(tmp_path, ["a.jpg", "é.jpg", "c.jpg"])

    def make(content, **settings):
        (tmp_path / "labels.csv").write_bytes(content)
        return CSVDataset(root=str(tmp_path), **settings)

    return make


def test_every_dialect(table):
    dialects = itertools.product(",;\t", ("utf-8", "utf-8-sig", "utf-16"), ("\n", "\r\n", "\r"), ("", '"'))
    for delimiter, encoding, end, quote in dialects:
        lines = [delimiter.join(f"{quote}{cell}{quote}" for cell in row.split(",")) for row in ROWS]
        data = table(end.join(lines).encode(encoding))
        data.prepare_data()
        assert data.classes == ("cat", "dog"), (delimiter, encoding, end, quote)
        assert data.read_split("train").targets.tolist() == [[1, 0], [-1, -1]]
        assert [path.name for path in data.read_split("train").paths] == ["a.jpg", "é.jpg"]


def test_names_between_semicolons_in_a_table_of_semicolons_are_quoted(table):
    data = table(b'image;labels\na.jpg;"cat;dog"\nc.jpg;dog\n', labels_column="labels")
    assert data.read_split("train").targets.tolist() == [[1, 1], [0, 1]]
    line = refusal(lambda: table(b"image;labels\na.jpg;cat;dog\n", labels_column="labels"))
    assert "row 2: 3 cells, the header has 2" in line


def test_columns_that_hold_nothing(table):
    assert table(b"image,cat,,\na.jpg,1,,\nc.jpg,0,,\n").classes == ("cat",)
    index = b",image,cat\n0,a.jpg,1\n1,c.jpg,0\n"
    assert "column 1 has no name, so it is no class" in refusal(lambda: table(index))
    assert table(index, classes=["cat"]).read_split("train").targets.tolist() == [[1], [0]]
    assert table(index.replace(b",1\n", b",yes\n"), labels_column="cat").num_classes == 2


def test_a_table_of_ones_own_may_lead_anywhere(table, tmp_path):
    write_pictures(tmp_path / "elsewhere", ["x.jpg", "y.jpg"])
    rows = f"image,cat\n../{tmp_path.name}/elsewhere/x.jpg,1\n{tmp_path}/elsewhere/y.jpg,0\n"
    table(rows.encode()).prepare_data()


CSV_MISTAKES = {
    "Latin-1": ("\n".join(ROWS).encode("latin-1"), "labels.csv, line 3: 'utf-8' codec can't decode byte 0xe9"),
    "UTF-16 without its mark": ("\n".join(ROWS).encode("utf-16-le"), "labels.csv, line 3"),
    "UTF-16, cut": ("\n".join(ROWS).encode("utf-16")[:-1], "'utf-16-le' codec can't decode"),
    "NaN": (b"image,cat\na.jpg,nan\n", "labels.csv, row 2: 'nan' in column 'cat' is no label; use 1, 0, -1 or nothing"),
    "truncated": ("\n".join(ROWS).encode()[:-5], "row 4: 3 cells, the header has 4"),
    "a quote without end": (b'image,cat\na.jpg,"1\nc.jpg,0\n', "row 2"),
    "a quote without end, long": (b'image,cat\na.jpg,"1' + b"\nc.jpg,0" * 20_000, "(a quote that nothing closes?)"),
    "long name": (f"image,cat\n{LONG},1\n".encode(), "1 of 1 train images are missing, the first is "),
    "long folder": (f"image,cat\n{'n' * 300}/{'n' * 300}.jpg,1\n".encode(), "1 of 1 train images are missing"),
    "long label": (f"image,cat\na.jpg,{LONG}\n".encode(), "labels.csv, row 2: 'nnn"),
    "long class": (f"image,{LONG}\na.jpg,x\n".encode(), "labels.csv, row 2: 'x' in column 'nnn"),
    "long header": (f"{LONG},cat\na.jpg,1\n".encode(), "no column 'image'; its columns are nnn"),
    "absent": (b"image,cat\nnone.jpg,1\n", "1 of 1 train images are missing"),
    "zero byte": (b"image,cat\na\0.jpg,1\n", r"'a\x00.jpg' cannot be a file's name"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "labels.csv, line 1: 'utf-8' codec can't decode byte 0x89"),
    "nothing": (b"", "is empty"),
    "blank": (b"\n\n ,\n", "is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", CSV_MISTAKES)
def test_csv(table, name):
    content, words = CSV_MISTAKES[name]
    assert words in refusal(lambda: table(content).prepare_data())


def test_a_name_that_the_locale_cannot_write_says_what_to_set(monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii"))  # as with LC_ALL=C and PYTHONUTF8=0
    assert "cannot be a file's name" in refusal(lambda: checked("é.jpg", "table.csv"))
    assert "PYTHONUTF8" in refusal(lambda: checked("é.jpg", "table.csv"))


# --- Properties: whatever it is, it is read or it is one line


def samples_or_one_line(read):
    try:
        samples = read()
    except MlclError as error:
        assert len(str(error)) < 2000
    else:
        assert samples is None or samples.targets.shape[0] == len(samples.paths)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


SCALARS = st.none() | st.booleans() | st.integers(-3, 10) | st.floats() | st.text(max_size=8) | st.just("../../a")
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=3), v, max_size=2))
ENTRIES = st.lists(
    st.fixed_dictionaries({}, optional={k: VALUES for k in ("id", "name", "file_name", "image_id", "category_id")})
    | VALUES,
    max_size=4,
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("images", "annotations", "categories"), ENTRIES | VALUES)))
def test_any_json_is_read_or_is_one_line(scratch, content):
    file = scratch / "instances.json"
    file.write_text(json.dumps(content))
    samples_or_one_line(lambda: read_coco(file, scratch / "images", ("cat", "dog")))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(place=st.sampled_from(["images", "annotations", "categories"]), number=st.integers(0, 1), value=VALUES,
       key=st.sampled_from(["id", "name", "file_name", "image_id", "category_id"]))  # fmt: skip
def test_one_value_changed_is_read_or_is_one_line(scratch, place, number, key, value):
    content = coco_json(CATEGORIES, {1: [1], 2: [2]})
    content[place][number][key] = value
    file = scratch / "instances.json"
    file.write_text(json.dumps(content))
    samples_or_one_line(lambda: read_coco(file, scratch / "images", ("cat", "dog")))


CELLS = st.sampled_from(["image", "cat", "split", "train", "1", "0", "-1", "", "nan", '"', "a.jpg", "\0", "é", ";"])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=st.lists(st.lists(CELLS | st.text(max_size=4), max_size=5), max_size=5),
       labels=st.sampled_from([None, "cat"]), delimiter=st.sampled_from(",;\t"),
       encoding=st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))  # fmt: skip
def test_any_table_is_read_or_is_one_line(scratch, rows, labels, delimiter, encoding):
    text = "\n".join(delimiter.join(row) for row in [["image", "cat", "split"], *rows])
    (scratch / "labels.csv").write_bytes(text.encode(encoding, "replace"))
    samples_or_one_line(lambda: CSVDataset(root=str(scratch), labels_column=labels).read_split("train"))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_as_table_or_list_are_read_or_are_one_line(scratch, content):
    (scratch / "labels.csv").write_bytes(content)
    samples_or_one_line(lambda: CSVDataset(root=str(scratch)).read_split("train"))
    lists = scratch / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    for name in VOC_CLASSES:
        (lists / f"{name}_trainval.txt").write_bytes(content)
    samples_or_one_line(lambda: VOC2007(str(scratch)).read_split("train"))
