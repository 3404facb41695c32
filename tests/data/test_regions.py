"""Where objects are, as COCO, VOC and the demo say it: the right pixels, or one line."""

import json
import sys

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from support.regions import filled, run_lengths, voc_xml, write_boxes
from support.trees import coco_json, write_voc

from mlcl.data.demo import CLASSES, Demo
from mlcl.data.regions import Region, of_coco, uncompressed, union
from mlcl.data.voc import VOC2007, VOC_CLASSES, read_boxes
from mlcl.errors import MlclError

HEIGHT, WIDTH = 30, 40
DISC = (np.hypot(*np.mgrid[-15:15, -20:20]) < 9) | filled(HEIGHT, WIDTH, (0, 3, 0, 2))  # begins inside


def read(tmp_path, *objects, **more):
    """The regions of the one image of an annotation file."""
    content = coco_json({1: "cat", 2: "dog"}, {1: objects})
    for name, value in more.items():
        content["images"][0][name] = value
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    (regions,) = of_coco(file, lambda: [tmp_path / "1.jpg"], ("cat", "dog"), [tmp_path / "1.jpg"]).read()
    return regions


def cat(**what):
    return {"category_id": 1, **what}


def pixels(tmp_path, **what):
    """Mask and area of one object."""
    (region,) = read(tmp_path, cat(**what))
    return union([region], HEIGHT, WIDTH)


def one_line(error, *words):
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


# --- COCO


@pytest.mark.parametrize("seed", range(20))
def test_both_kinds_of_run_lengths_are_the_mask_they_were_made_of(tmp_path, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((HEIGHT, WIDTH)) < rng.choice([0.02, 0.5, 0.98]) if seed else DISC
    compressed = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    assert uncompressed(compressed).tolist() == run_lengths(mask)
    for counts in (compressed.decode(), run_lengths(mask)):
        found, area = pixels(tmp_path, segmentation={"size": [HEIGHT, WIDTH], "counts": counts}, iscrowd=seed % 2)
        assert np.array_equal(found, mask) and area == mask.sum()


def test_long_runs_are_read_as_pycocotools_writes_them():
    for shape in ((3000, 4000), (1, 70_000), (70_000, 1)):
        mask = np.zeros(shape, dtype=np.uint8, order="F")
        mask[shape[0] // 3 : shape[0] // 2 + 1, shape[1] // 5 :] = 1
        ends = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=2)).tolist()
        found = uncompressed(coco_masks.encode(mask)["counts"])
        assert np.cumsum(found).tolist() == ends


def test_polygons_of_an_object_are_one_mask(tmp_path):
    """Here with corners at pixels' corners, where nobody can doubt which pixels are inside."""
    one, other = [2, 3, 12, 3, 12, 9, 2, 9], [20, 10, 30, 10, 30, 29, 20, 29]
    found, area = pixels(tmp_path, segmentation=[one, other, [1, 1, 2, 2]])  # the last encloses nothing
    assert np.array_equal(found, filled(HEIGHT, WIDTH, (3, 9, 2, 12), (10, 29, 20, 30))) and area == 60 + 190


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools' decode, with NumPy 2
def test_polygons_are_drawn_as_pycocotools_draws_them(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(30):
        outline = rng.uniform(-5, 45, 2 * rng.integers(3, 12)).round(2).tolist()
        expected = coco_masks.decode(coco_masks.frPyObjects([outline], HEIGHT, WIDTH))[..., 0]
        found, area = pixels(tmp_path, segmentation=[outline], bbox=[0, 0, 0, 0])
        assert np.array_equal(found, expected) and area == expected.sum()


@pytest.mark.parametrize("mask", [{"segmentation": []}, {"segmentation": None}, {"segmentation": [[3, 3, 4, 4]]}])
def test_an_object_without_a_mask_counts_with_its_box(tmp_path, mask):
    found, area = pixels(tmp_path, bbox=[4.5, 3, 10, 6.2], **mask)
    assert np.array_equal(found, filled(HEIGHT, WIDTH, (3, 10, 4, 15))) and area == 7 * 11


@pytest.mark.parametrize(
    "mask", [[[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]], {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}]
)
def test_a_mask_without_a_pixel_counts_with_its_box(tmp_path, mask):
    found, area = pixels(tmp_path, bbox=[5, 5, 1, 1], segmentation=mask)
    assert np.array_equal(found, filled(HEIGHT, WIDTH, (5, 6, 5, 6))) and area == 1


def test_a_box_that_leaves_the_picture_is_cut(tmp_path):
    found, area = pixels(tmp_path, bbox=[-5, 25, 10, 90], segmentation=[])
    assert np.array_equal(found, filled(HEIGHT, WIDTH, (25, 30, 0, 5))) and area == 25


def test_an_object_that_is_nowhere_is_no_region(tmp_path):
    assert read(tmp_path, cat(bbox=None, segmentation=[])) == []


def test_several_objects_are_joined_and_the_largest_is_measured(tmp_path):
    box, runs = cat(bbox=[0, 0, 3, 4], segmentation=[]), {"size": [HEIGHT, WIDTH], "counts": run_lengths(DISC)}
    outline = [[10, 10, 40, 10, 40, 30, 10, 30]]
    regions = read(tmp_path, box, cat(segmentation=runs, iscrowd=1), cat(segmentation=outline), {"category_id": 2})
    assert [region.column for region in regions] == [0, 0, 0, 1]
    found, area = union(regions[:3], HEIGHT, WIDTH)
    assert np.array_equal(found, DISC | filled(HEIGHT, WIDTH, (0, 4, 0, 3), (10, 30, 10, 40))) and area == 600


def test_a_picture_whose_size_is_not_given_has_that_of_the_mask(tmp_path):
    runs = {"size": [HEIGHT, WIDTH], "counts": run_lengths(DISC)}
    masked, boxed = read(tmp_path, cat(segmentation=runs), cat(segmentation=[]), height=None)
    assert masked.size == (HEIGHT, WIDTH) and boxed.size is None


SHORT = {"size": [HEIGHT, WIDTH], "counts": [600, 500]}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"segmentation": [[1, 1, 5, 1, 5]]}, ("[1, 1, 5, 1, 5]", "a polygon is a list x, y")),
        ({"segmentation": [[1, 1, 5, 1, 5, None]]}, ("None", "a polygon is a list x, y")),
        ({"segmentation": [[1, 1, 5, 1, "5", 5]]}, ("a polygon is a list x, y",)),
        ({"segmentation": [1, 1, 5, 1, 5, 5]}, ("a polygon is a list x, y",)),
        ({"segmentation": "1 1 5 1 5 5"}, ("a polygon is a list x, y",)),
        ({"segmentation": [[0, 0, 2e6, 0, 2e6, 5]]}, ("more than 1,000,000 pixels",)),
        ({"segmentation": [[0, 0, float("nan"), 0, 5, 5]]}, ("a polygon is a list x, y",)),
        ({"segmentation": SHORT}, ("sum to 30 x 40",)),
        ({"segmentation": SHORT | {"counts": [700, -100, 600]}}, ("sum to 30 x 40",)),
        ({"segmentation": SHORT | {"counts": [600.5, 599.5]}}, ("sum to 30 x 40",)),
        ({"segmentation": SHORT | {"counts": "0" * 30}}, ("sum to 30 x 40",)),
        ({"segmentation": SHORT | {"counts": "o"}}, ("sum to 30 x 40",)),
        ({"segmentation": SHORT | {"counts": "\xe9"}}, ("sum to 30 x 40",)),
        ({"segmentation": SHORT | {"counts": ""}}, ("sum to 30 x 40",)),
        ({"segmentation": SHORT | {"counts": None}}, ("sum to 30 x 40",)),
        ({"segmentation": {"counts": [1200]}}, ("size of its mask is None",)),
        ({"segmentation": {"size": [30], "counts": [1200]}}, ("size of its mask is [30]",)),
        ({"segmentation": {"size": [-30, -40], "counts": [1200]}}, ("size of its mask is [-30, -40]",)),
        ({"segmentation": {"size": [10**5, 10**5], "counts": [10**10]}}, ("which no picture has",)),
        ({"segmentation": {"size": [40, 30], "counts": [1200]}}, ("mask is of 30 x 40", "image of 40 x 30")),
        ({"bbox": [1, 2, 3]}, ("bbox is [1, 2, 3]",)),
        ({"bbox": [1, 2, -3, 4]}, ("bbox is [1, 2, -3, 4]",)),
        ({"bbox": {"x": 1}}, ("bbox is",)),
    ],
)
def test_a_mask_or_box_that_cannot_be_is_told_with_its_file_and_annotation(tmp_path, what, words):
    with pytest.raises(MlclError) as error:
        read(tmp_path, cat(), cat(id=77, **what))
    one_line(error, tmp_path / "a.json", "annotation 77", *words)


@pytest.mark.parametrize("height", [0, -3, 30.5, "30"])
def test_a_size_that_no_picture_has_is_told(tmp_path, height):
    with pytest.raises(MlclError) as error:
        read(tmp_path, cat(), height=height)
    one_line(error, tmp_path / "a.json", "image 1", f"40 x {height!r}")


# --- VOC


def test_boxes_of_voc_are_counted_from_one_and_hold_their_last_pixel(tmp_path):
    parts = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    objects = [
        ("person", 1, 1, 8, 48),
        ("dog", 24, 10, 24, 10, True),
        ("cat", "45.7", 10, "50.2", 20),
        ("unicorn", 1, 1, 2, 2),
    ]
    (tmp_path / "a.xml").write_text(voc_xml(50, 60, objects, parts))
    person, dog, cat = read_boxes(tmp_path / "a.xml")
    names = [VOC_CLASSES[region.column] for region in (person, dog, cat)]
    assert names == ["person", "dog", "cat"] and {region.size for region in (person, dog, cat)} == {(60, 50)}
    for region, box in ((person, (0, 48, 0, 8)), (dog, (9, 10, 23, 24)), (cat, (9, 20, 44, 50))):
        mask = filled(60, 50, box)
        found, area = union([region], 60, 50)
        assert np.array_equal(found, mask) and area == mask.sum()


def test_a_size_of_zero_is_none(tmp_path):
    (tmp_path / "a.xml").write_text(voc_xml(0, 0, [("dog", 1, 1, 5, 5)]))
    assert read_boxes(tmp_path / "a.xml") == [Region(VOC_CLASSES.index("dog"), None, box=(0, 0, 5, 5))]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "no element"),
        (b"<annotation><object>", "no element"),
        (b"\xff\xd8 no text", "not well-formed"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "unknown encoding"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "DOCTYPE"),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><annotation/>'.encode("utf-16"), "DOCTYPE"),
        (voc_xml("wide", 30, []).encode(), "wide"),
        (voc_xml(40, 30, [("dog", 5, 5, 4, 9)]).encode(), "[5.0, 5.0, 4.0, 9.0]"),
        (voc_xml(40, 30, [("dog", "", 5, 4, 9)]).encode(), "[nan, 5.0, 4.0, 9.0]"),
        (voc_xml(40, 30, [("dog", "inf", 5, "inf", 9)]).encode(), "[inf"),
        (voc_xml(40, 30, [("dog", "left", 5, 4, 9)]).encode(), "left"),
    ],
)
def test_an_annotation_file_that_cannot_be_is_told(tmp_path, text, word):
    (tmp_path / "a.xml").write_bytes(text)
    with pytest.raises(MlclError) as error:
        read_boxes(tmp_path / "a.xml")
    one_line(error, tmp_path / "a.xml", word)


def test_files_of_voc_are_found_beside_the_pictures(tmp_path):
    devkit = write_voc(tmp_path, {"trainval": {"000005": {"dog": 1}, "000007": {"dog": 1}}, "test": {}})
    write_boxes(devkit, {"000007": [("dog", 1, 1, 5, 5)]})
    data = VOC2007(str(tmp_path))
    none, some = data.read_regions("train", data.read_split("train").paths).read()
    assert none == [] and [region.box for region in some] == [(0, 0, 5, 5)]


# --- The demo


def test_the_masks_of_the_demo_are_in_its_boxes_and_need_no_pycocotools(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    data = Demo(str(tmp_path / "demo"), train_images=12, test_images=4, scene_size=64)
    data.prepare_data()
    content = json.loads((tmp_path / "demo/annotations/instances_train2014.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    found = data.read_regions("train", data.read_split("train").paths).read()
    regions = [region for of_image in found for region in of_image]
    for region, entry in zip(regions, content["annotations"], strict=True):
        x, y, w, h = entry["bbox"]
        mask, area = union([region], *region.size)
        assert CLASSES[region.column] == names[entry["category_id"]] and area == mask.sum() == entry["area"]
        assert not (mask & ~filled(*region.size, (y, y + h, x, x + w))).any()
    assert any(entry["area"] < 0.9 * np.prod(entry["bbox"][2:]) for entry in content["annotations"])
