"""Which cells the objects cover, against loops over pixels; and the file that keeps it."""

import json
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.regions import filled, looped_cells, looped_near, run_lengths, write_boxes
from support.running import REPOSITORY, tiny_data
from support.trees import coco_json, picture, write_table, write_voc

from mlcl.data import coverage
from mlcl.data.coco import COCO2014, COCO_CLASSES
from mlcl.data.coverage import _extent, covered, near
from mlcl.data.csv_file import CSVDataset
from mlcl.data.demo import Demo
from mlcl.data.voc import VOC2007, VOC_CLASSES
from mlcl.errors import MlclError

HEIGHT, WIDTH, GRID = 30, 40, (4, 3)
CATEGORIES = {i + 1: name for i, name in enumerate(COCO_CLASSES)}
L_SHAPE = filled(HEIGHT, WIDTH, (2, 25, 3, 8), (20, 25, 3, 21))


def masked(category, mask, **more):
    return {"category_id": category, "segmentation": {"size": [*mask.shape], "counts": run_lengths(mask)}, **more}


def boxed(category, x, y, w, h, **more):
    return {"category_id": category, "bbox": [x, y, w, h], **more}


def write_tree(root, images, name="val2014", size=(WIDTH, HEIGHT)):
    """A split of COCO: image id -> objects; the other split is empty."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for folder in ("train2014", "val2014"):
        content = coco_json(CATEGORIES, images if folder == name else {})
        (root / folder).mkdir(exist_ok=True)
        for entry in content["images"]:
            picture(*size, seed=entry["id"]).save(root / folder / entry["file_name"])
        (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(content))
    return root


def maps(data, split="test", grid=GRID):
    data.read_splits()
    return data.coverage(split, grid)


def same(found, pair, mask, area=None):
    """Whether the pair's maps are those of the mask, by the loops."""
    assert np.array_equal(found.cells[pair], looped_cells(mask, found.cells.shape[1:]))
    assert np.array_equal(found.near_of([pair])[0], looped_near(mask, found.cells.shape[1:]))
    assert found.area[pair] == (mask.sum() if area is None else area)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# --- A mask and its cells


@pytest.mark.parametrize(
    ("shape", "grid"), [((21, 35), (7, 7)), ((43, 20), (2, 3)), ((5, 6), (3, 14)), ((34, 34), (1, 1))]
)
def test_cells_are_those_of_the_loops(shape, grid):
    rng = np.random.default_rng([*shape, *grid])
    top, left = (int(rng.integers(side)) for side in shape)
    for mask in (
        filled(*shape, (top, top + 1, left, left + 1)),
        np.asfortranarray(rng.random(shape) < 0.1) & filled(*shape, (top, shape[0], 0, left + 1)),
        np.ones(shape, dtype=bool),
    ):
        assert np.array_equal(covered(mask, grid, _extent(mask)), looped_cells(mask, grid))
        assert np.array_equal(near(mask, grid, _extent(mask)), looped_near(mask, grid))


def test_fifteen_pixels_are_near_and_more_are_not():
    """Centres 9 and 12 pixels away are 15 away; one pixel farther is too far. So is 15 straight, not 16."""
    for dy, dx, expected in ((9, 12, True), (9, 13, False), (10, 12, False), (0, 15, True), (16, 0, False)):
        mask = filled(51, 51, (25 + dy, 26 + dy, 25 - dx, 26 - dx))
        assert near(mask, (1, 1), _extent(mask))[0, 0] == expected


def test_areas_of_a_very_large_picture_are_exact():
    """509 of 510 parts are 254.5 of 255, rounded up; float32 has no 16,779,185, but the even number below it."""
    mask = ~filled(3470, 4845, (100, 195, 1000, 1347))
    assert 510 * mask.sum() == 509 * mask.size and mask.sum() == 16_779_185
    assert covered(mask, (1, 1), _extent(mask)).tolist() == [[255]]


# --- Datasets


def test_coco_objects_of_a_class_are_one_map(tmp_path):
    outline = [[5, 5, 25, 5, 25, 15, 5, 15]]
    images = {
        4: [masked(3, L_SHAPE, iscrowd=1), boxed(1, 30, 2, 6, 7, segmentation=[]), boxed(3, 0, 0, 2, 2)],
        2: [{"category_id": 80, "segmentation": outline}],
        7: [],
    }
    found = maps(COCO2014(str(write_tree(tmp_path, images)), num_workers=0))
    assert found.rows.tolist() == [0, 1, 1] and found.classes.tolist() == [79, 0, 2]
    assert found.rows.dtype == found.classes.dtype == np.int64
    assert (found.area.dtype, found.cells.dtype, found.cells.shape) == (np.float32, np.uint8, (3, *GRID))
    same(found, 0, filled(HEIGHT, WIDTH, (5, 15, 5, 25)))
    same(found, 1, filled(HEIGHT, WIDTH, (2, 9, 30, 36)))
    same(found, 2, L_SHAPE | filled(HEIGHT, WIDTH, (0, 2, 0, 2)), L_SHAPE.sum())
    assert found.notes == () and found.near_of(slice(0, 2)).shape == (2, *GRID)
    assert found.near_of(slice(1, 3)).dtype == bool


def test_rows_are_those_of_the_split_after_images_were_dropped_and_held_out(tmp_path):
    images = {i: [boxed(1 + i % 3, i, 2, 9, 9, segmentation=[])] * (i % 4 > 0) for i in range(1, 25)}
    data = COCO2014(
        str(write_tree(tmp_path, images, "train2014")),
        empty_images="drop",
        val_fraction=0.4,
        split_seed=3,
        num_workers=0,
    )
    for split, count in (("train", 11), ("val", 7)):
        found = maps(data, split)
        assert found.rows.tolist() == list(range(count)) == list(range(len(data.splits[split].paths)))
        for pair, path in enumerate(data.splits[split].paths):
            assert found.classes[pair] == int(path.stem) % 3
            same(found, pair, filled(HEIGHT, WIDTH, (2, 11, int(path.stem), int(path.stem) + 9)))


def test_validation_images_that_are_the_test_images_have_their_maps(tmp_path):
    data = COCO2014(str(write_tree(tmp_path, {1: [masked(1, L_SHAPE)]})), num_workers=0)
    for split in ("val", "test"):
        same(maps(data, split), 0, L_SHAPE)


def test_voc_boxes_of_present_classes_count_difficult_ones_too(tmp_path):
    images = {"a": {"dog": 1, "cat": 0}, "b": {"cow": 1, "cat": 1}, "c": {"cat": -1}}
    devkit = write_voc(tmp_path, {"trainval": {"z": {"dog": 1}}, "test": images})
    boxes = {
        "a": [("dog", 1, 1, 10, 5), ("dog", 21, 11, 40, 30, True), ("cat", 3, 3, 9, 9, True)],
        "b": [("cat", 5, 5, 5, 5)],
        "c": [("cow", 1, 1, 2, 2)],
    }
    write_boxes(devkit, boxes)
    found = maps(VOC2007(str(tmp_path), num_workers=0))
    assert [VOC_CLASSES[k] for k in found.classes] == ["dog", "cat"] and found.rows.tolist() == [0, 1]
    same(found, 0, filled(HEIGHT, WIDTH, (0, 5, 0, 10), (10, 30, 20, 40)), 400)
    same(found, 1, filled(HEIGHT, WIDTH, (4, 5, 4, 5)))
    assert found.notes == ("test: 1 of 3 present classes have no mask or box",)  # the cow in b


def test_the_demo_has_the_maps_of_its_masks(demo_root):
    data = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, num_workers=0)
    found = maps(data)
    content = json.loads((demo_root / "annotations/instances_val2014.json").read_text())
    columns = {entry["id"]: k for k, entry in enumerate(content["categories"])}
    expected = {}
    for entry in content["annotations"]:
        runs, (h, w) = entry["segmentation"]["counts"], entry["segmentation"]["size"]
        mask = np.repeat(np.arange(len(runs)) % 2, runs).reshape(w, h).T.astype(bool)
        key = entry["image_id"] - 1_000_001, columns[entry["category_id"]]
        expected[key] = expected.get(key, False) | mask
    assert sorted(expected) == list(zip(found.rows.tolist(), found.classes.tolist(), strict=True))
    for pair in range(0, len(found.rows), 9):
        key = int(found.rows[pair]), int(found.classes[pair])
        assert np.array_equal(found.cells[pair], looped_cells(expected[key], GRID))
        assert np.array_equal(found.near_of([pair])[0], looped_near(expected[key], GRID))


def test_a_dataset_without_regions_is_one_line(tmp_path):
    table = write_table(tmp_path / "table", ["image,a,split", "1.jpg,1,train", "2.jpg,1,test"])
    write_voc(tmp_path, {"trainval": {"z": {"dog": 1}}, "test": {"a": {"dog": 1}}})
    empty = write_tree(tmp_path / "coco", {1: [boxed(1, 1, 1, 9, 9, bbox=[])]})
    for data in (CSVDataset(root=str(table)), VOC2007(str(tmp_path)), COCO2014(str(empty))):
        with pytest.raises(
            MlclError, match=r"^\w+ at [^\n]* has no masks or boxes( of the classes in its test images)?$"
        ):
            maps(data)
    with pytest.raises(MlclError, match="no val images"):
        COCO2014(str(empty)).coverage("val", GRID)


# --- The picture's size


def test_a_picture_that_the_camera_turned_counts_as_it_is_seen(tmp_path):
    root, exif = write_tree(tmp_path, {1: [masked(1, L_SHAPE)], 2: [masked(1, L_SHAPE)]}), Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    picture(HEIGHT, WIDTH).save(root / "val2014" / f"{1:012d}.jpg", exif=exif)
    found = maps(COCO2014(str(root), num_workers=0))
    same(found, 0, L_SHAPE)
    picture(WIDTH, HEIGHT).save(root / "val2014" / f"{2:012d}.jpg", exif=exif)
    found = maps(COCO2014(str(root), num_workers=0, cache_dir=str(tmp_path / "cache")))
    assert found.rows.tolist() == [0]
    assert [line.split(";")[0] for line in found.notes] == [
        "test: 1 images have another size than their annotations say"
    ]


def test_a_portrait_has_cells_as_wide_as_high_parts_of_it(tmp_path):
    mask = filled(WIDTH, HEIGHT, (0, 10, 0, 10))
    content = coco_json(CATEGORIES, {1: [masked(1, mask)]})
    root = write_tree(tmp_path, {1: []}, size=(HEIGHT, WIDTH))
    content["images"][0] |= {"width": HEIGHT, "height": WIDTH}
    (root / "annotations/instances_val2014.json").write_text(json.dumps(content))
    found = maps(COCO2014(str(root), num_workers=0))
    same(found, 0, mask)
    assert found.cells[0].tolist() == [[255, 0, 0], [0] * 3, [0] * 3, [0] * 3]


def test_a_picture_without_a_size_in_its_annotations_has_its_own(tmp_path):
    root = write_tree(tmp_path, {1: [boxed(1, 4, 2, 60, 20, segmentation=[])]}, size=(70, 50))
    file = root / "annotations/instances_val2014.json"
    content = json.loads(file.read_text())
    del content["images"][0]["width"]
    file.write_text(json.dumps(content))
    same(maps(COCO2014(str(root), num_workers=0)), 0, filled(50, 70, (2, 22, 4, 64)))


def test_pictures_that_cannot_be_opened_are_left_out_and_counted(tmp_path, capsys):
    root = write_tree(tmp_path, {i: [masked(1, L_SHAPE), boxed(2, 1, 1, 9, 9)] for i in range(1, 5)})
    (root / "val2014" / f"{2:012d}.jpg").write_bytes(b"no picture")
    (root / "val2014" / f"{3:012d}.jpg").unlink()
    found = maps(COCO2014(str(root), num_workers=0, on_bad_image="skip"))
    assert found.rows.tolist() == [0, 0, 3, 3]
    said = capsys.readouterr().err.splitlines()
    assert f"warning: {found.notes[0]}" in said and found.notes[0].startswith("test: 2 images cannot be opened")


# --- The file


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "coco", {i: [masked(1 + i % 4, L_SHAPE), boxed(9, i, 3, 5, 5)] for i in range(1, 9)})


def opened(tree, folder, grid=GRID, answer=None, **settings):
    found = maps(COCO2014(str(tree), **{"num_workers": 0, "cache_dir": str(folder), **settings}), grid=grid)
    if answer is not None:
        answer.put((found.cells.sum().item(), found.area.tolist(), files(folder)))
    return found


def test_a_repaired_picture_is_measured(tmp_path):
    data = COCO2014(str(write_tree(tmp_path, {1: [boxed(3, 5, 5, 20, 10)], 2: [boxed(3, 0, 0, 9, 9)]})), num_workers=0)
    data.read_splits()
    one, other = data.splits["test"].paths
    picture(WIDTH // 2, HEIGHT // 2, seed=1).save(one)
    other.write_bytes(b"cut off")
    assert len(data.coverage("test", GRID).notes) == 2
    for path in (one, other):
        picture(WIDTH, HEIGHT, seed=1).save(path)
    found = data.coverage("test", GRID)
    assert not found.notes and found.rows.tolist() == [0, 1]


def test_a_disk_whose_clock_is_ahead_makes_no_error(tmp_path, monkeypatch):
    """A picture that is left out then always looks changed since; its maps are written, and used."""
    monkeypatch.setattr(coverage, "_changed_since", lambda path, then: True)
    data = COCO2014(str(write_tree(tmp_path, {1: [boxed(3, 5, 5, 20, 10)], 2: [boxed(3, 0, 0, 9, 9)]})), num_workers=0)
    data.read_splits()
    picture(WIDTH // 2, HEIGHT // 2, seed=1).save(data.splits["test"].paths[0])
    for _ in range(2):
        assert data.coverage("test", GRID).rows.tolist() == [1]


def test_it_is_written_once_and_said_before(tree, tmp_path, capsys):
    folder = tmp_path / "cache"
    first = opened(tree, folder)
    assert "a cache of where the objects of 8 pictures are, on 4 x 3 cells, takes" in capsys.readouterr().err
    (name,) = files(folder)
    (folder / name).with_suffix(".lock").unlink(missing_ok=True)
    written = (folder / name).stat().st_mtime_ns
    (tree / "val2014" / f"{1:012d}.jpg").unlink()  # nothing of the pictures is needed any more
    again = opened(tree, folder)
    assert capsys.readouterr().err == "" and (folder / name).stat().st_mtime_ns == written
    for one, other in ((first.cells, again.cells), (first.near_bits, again.near_bits), (first.area, again.area)):
        assert np.array_equal(one, other)


def test_all_that_changes_a_map_changes_the_name(tree, tmp_path):
    folder = tmp_path / "cache"
    opened(tree, folder)
    opened(tree, folder, grid=(3, 4))
    opened(tree, folder, max_pixels=5000)
    os.utime(tree / "annotations/instances_val2014.json", (1, 1))
    opened(tree, folder)
    assert len(files(folder)) == 4


def test_other_labels_of_the_same_pictures_have_maps_of_their_own(tmp_path):
    """As many as before, so that the file's length does not tell."""
    devkit = write_voc(tmp_path, {"trainval": {"z": {"dog": 1}}, "test": {"a": {}}})
    write_boxes(devkit, {"a": [("dog", 1, 1, 10, 5), ("cat", 21, 11, 40, 30)]})
    for present, absent, box in (("dog", "cat", (0, 5, 0, 10)), ("cat", "dog", (10, 30, 20, 40))):
        (devkit / "ImageSets" / "Main" / f"{present}_test.txt").write_text("a 1\n")
        (devkit / "ImageSets" / "Main" / f"{absent}_test.txt").write_text("a -1\n")
        found = maps(VOC2007(str(tmp_path), num_workers=0))
        assert [VOC_CLASSES[k] for k in found.classes] == [present]
        same(found, 0, filled(HEIGHT, WIDTH, box))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "fewer", "others", "columns"])
def test_a_damaged_file_is_written_again(tree, tmp_path, damage):
    folder = tmp_path / "cache"
    opened(tree, folder)
    path = folder / files(folder)[0]
    whole, stale = path.read_bytes(), folder / f".{path.stem}.123.partial.npy"
    if damage in ("fewer", "others", "columns"):
        rows = np.load(path)
        np.save(path, {"fewer": rows[:3], "others": np.arange(len(rows)), "columns": rows[["state", "area"]]}[damage])
    else:
        path.write_bytes({"cut": whole[:-20], "empty": b"", "text": b"hello\n"}[damage])
    stale.write_bytes(whole[:300])  # of a killed process
    opened(tree, folder)
    assert path.read_bytes() == whole and not stale.exists()


@pytest.mark.filterwarnings("ignore:.*fork", "ignore:.*DataLoader will")
def test_of_processes_that_start_together_one_writes_and_all_read_the_same(tree, tmp_path, capfd):
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    started = [context.Process(target=opened, args=(tree, tmp_path / "cache", GRID, answer)) for _ in range(3)]
    for process in started:
        process.start()
    answers = [answer.get() for _ in started]
    for process in started:
        process.join()
    assert all(one == answers[0] for one in answers) and len(answers[0][2]) == 1
    assert capfd.readouterr().err.count("takes") == 1


@pytest.mark.filterwarnings("ignore:.*fork", "ignore:.*DataLoader will")
def test_worker_processes_compute_the_same(tree, tmp_path):
    one, other = opened(tree, tmp_path / "one"), opened(tree, tmp_path / "other", num_workers=2)
    assert np.array_equal(one.cells, other.cells) and np.array_equal(one.near_bits, other.near_bits)


def test_a_folder_that_cannot_be_is_one_line(tree, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MlclError) as error:
        opened(tree, tmp_path / "file" / "cache")
    assert "--data.cache_dir" in str(error.value) and "--data.cache none" not in str(error.value)


# --- Without pycocotools


def test_polygons_need_pycocotools(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    root = write_tree(tmp_path, {1: [{"category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}]})
    with pytest.raises(MlclError, match=r"^localisation of COCO masks needs pycocotools"):
        maps(COCO2014(str(root), num_workers=0))


@pytest.mark.slow
def test_training_and_testing_do_not_need_it(tmp_path):
    """In a process of its own, where nothing has imported it before."""
    (tmp_path / "shadow" / "pycocotools").mkdir(parents=True)
    (tmp_path / "shadow" / "pycocotools" / "__init__.py").write_text("raise ImportError('not here')\n")
    words = ["--config", str(REPOSITORY / "configs/demo.yaml"), *tiny_data("Demo", tmp_path / "demo")]
    words += ["--data.image_size", "32", "--data.batch_size", "8", "--data.num_workers", "0"]
    script = (
        "import sys\nfrom mlcl.__main__ import main\n"
        "status = main(['fit', *sys.argv[1:], '--trainer.max_epochs', '1'])\n"
        "sys.exit(status or main(['test', '--ckpt_path', 'runs/demo']))\n"
    )
    path = os.pathsep.join([str(tmp_path / "shadow"), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/demo/version_0/test_0").is_dir()
