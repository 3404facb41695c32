import numpy as np
import pytest
from support.object_trees import OPEN_ROWS, write_open_images

from mlcl.data.open_images import OpenImages
from mlcl.errors import MlclError

MIDS = ["/m/0a", "/m/0b", "/m/0c", "/m/0d"]
FOLDERS = {"train": "train", "val": "validation", "test": "test"}
TRAIN = "oidv6-train-annotations-human-imagelabels.csv"


def slow(lines, mids, machine=None):
    """ImageID -> targets, row by row; images without a label of the classes are left out."""
    said = {}
    for line in lines:
        image, source, mid, confidence = line.split(",")
        if mid not in mids:
            continue
        if source == "machine":
            if machine is not None and float(confidence) >= machine:
                said.setdefault((image, mid), []).append("machine")
        else:
            said.setdefault((image, mid), []).append(float(confidence))
    rows = {}
    for image, mid in said:
        words = said[image, mid]
        human = {word for word in words if word != "machine"}
        target = {frozenset({1}): 1, frozenset({0}): 0, frozenset({0, 1}): -1, frozenset(): 1}[frozenset(human)]
        rows.setdefault(image, [-1] * len(mids))[mids.index(mid)] = target
    return dict(sorted(rows.items()))


def read(data, split):
    samples = data.read_split(split)
    assert {path.parent for path in samples.paths} == {data.root / FOLDERS[split]}
    assert samples.targets.dtype == np.int8 and all(path.suffix == ".jpg" for path in samples.paths)
    return dict(zip([path.stem for path in samples.paths], samples.targets.tolist(), strict=True))


def refused(root, *words, **settings):
    with pytest.raises(MlclError) as error:
        OpenImages(str(root), **settings).read_split("train")
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


@pytest.fixture
def root(tmp_path):
    return write_open_images(tmp_path / "oi")


@pytest.mark.parametrize("folder", ["", "annotations"])
def test_verified_labels_are_known_and_all_others_unknown(root, folder):
    (root / folder).mkdir(exist_ok=True)
    for file in list(root.glob("*.csv")):
        file.rename(root / folder / file.name)
    data = OpenImages(str(root))
    data.prepare_data()
    assert data.mids == MIDS
    for split in ("train", "val", "test"):
        assert read(data, split) == slow(OPEN_ROWS[FOLDERS[split]], MIDS)
    assert not data.notes


def test_a_name_of_several_classes_is_told_apart_by_its_id(root):
    classes = ("Crane (/m/0a)", "Bat, animal", "Crane (/m/0c)", "Dog")
    assert OpenImages(str(root)).classes == classes
    few = OpenImages(str(root), classes=["/m/0c", "/m/0d"])
    assert few.classes == ("Crane (/m/0c)", "Dog")  # the same, whichever are chosen


@pytest.mark.parametrize("header", [True, False])
def test_descriptions_with_and_without_a_header(root, header):
    file = root / "class-descriptions.csv"
    lines = file.read_text().splitlines()
    file.unlink()
    (root / "oidv7-class-descriptions.csv").write_text("\n".join(lines if header else lines[1:]))
    (root / "class-descriptions-boxable.csv").write_text("/m/0a,Other\n")
    assert OpenImages(str(root)).classes[1] == "Bat, animal"
    assert OpenImages(str(root), descriptions="class-descriptions-boxable.csv").classes[:2] == ("Other", "/m/0b")


def test_without_descriptions_the_names_are_the_ids(root):
    (root / "class-descriptions.csv").unlink()
    assert OpenImages(str(root)).classes == tuple(MIDS)


def test_classes_as_a_list_and_as_a_file(root):
    wanted = ["/m/0d", "/m/0b"]
    (root / "trainable.txt").write_text("/m/0d\n/m/0b\n")
    for classes in (wanted, "trainable.txt", str(root / "trainable.txt")):
        data = OpenImages(str(root), classes=classes)
        assert data.mids == wanted and data.classes == ("Dog", "Bat, animal")
        assert read(data, "train") == slow(OPEN_ROWS["train"], wanted)


def test_a_class_that_is_described_but_never_labelled_may_be_asked_for(root):
    with (root / "class-descriptions.csv").open("a") as file:
        file.write("/m/0z,Zebra\n")
    data = OpenImages(str(root), classes=["/m/0z", "/m/0d"])
    assert read(data, "train") == slow(OPEN_ROWS["train"], ["/m/0z", "/m/0d"])


MACHINE = ["000a,machine,/m/0b,0.9", "000a,machine,/m/0c,0.9", "000b,machine,/m/0a,0.4", "000z,machine,/m/0d,0.6"]


@pytest.mark.parametrize("machine", [None, 0.4, 0.6, 0.95])
@pytest.mark.parametrize("own_file", [True, False])
def test_a_machine_counts_above_a_confidence_and_below_a_human(tmp_path, machine, own_file):
    rows = {**OPEN_ROWS, "train": OPEN_ROWS["train"] + ([] if own_file else MACHINE)}
    root = write_open_images(tmp_path, rows)
    file = root / "oidv6-train-annotations-machine-imagelabels.csv"
    file.write_text("\n".join(["ImageID,Source,LabelName,Confidence", *(MACHINE if own_file else [])]))
    data = OpenImages(str(root), machine_confidence=machine)
    assert read(data, "train") == slow([*OPEN_ROWS["train"], *MACHINE], MIDS, machine)


def test_humans_that_contradict_each_other_are_unknown_and_counted(tmp_path):
    lines = [*OPEN_ROWS["train"], "000a,crowdsource-verification,/m/0b,1", "000d,verification,/m/0d,1"]
    data = OpenImages(str(write_open_images(tmp_path, {"train": lines})))
    assert read(data, "train") == slow(lines, MIDS)
    assert read(data, "train")["000a"][1] == -1
    assert "present and absent in one image 1 times" in data.notes["train contradictions"]


def test_pictures_that_are_not_there(root):
    (root / "train" / "000c.jpg").unlink()
    with pytest.raises(MlclError, match=r"1 of 4 train images are missing, .*000c.jpg.*; --data.images present takes"):
        OpenImages(str(root)).prepare_data()
    data = OpenImages(str(root), images="present")
    data.prepare_data()
    whole = slow(OPEN_ROWS["train"], MIDS)
    del whole["000c"]
    # Of Crane (/m/0c) the images that are there still have a verified absence.
    assert data.mids == MIDS and read(data, "train") == whole
    assert data.notes["train images"].startswith("train: 3 images are used")


def test_the_classes_are_those_of_the_pictures_that_are_there(root):
    for name in ("000c", "000d"):
        (root / "train" / f"{name}.jpg").unlink()
    assert OpenImages(str(root), images="present").mids == ["/m/0a", "/m/0b", "/m/0d"]


def test_the_portable_arguments_make_the_same_dataset(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = OpenImages("oi", images="present")
    portable = first.portable_arguments()
    (root / "train" / "000b.jpg").unlink()
    monkeypatch.chdir("/")
    again = OpenImages(images="present", **portable)
    assert (again.mids, again.classes) == (first.mids, first.classes)


@pytest.mark.parametrize("settings", [{}, {"train": TRAIN, "test": "test-annotations-human-imagelabels.csv"}])
def test_a_test_elsewhere_needs_no_training_table(root, settings):
    (root / TRAIN).unlink()
    data = OpenImages(str(root), classes=["/m/0d", "/m/0q"], **settings)
    data.read_splits()
    assert data.splits["test"].targets.tolist() == [[1, -1], [0, -1]] and "train" not in data.splits
    refused(root, "train", "--data.train" if not settings else "data.train", **settings)


@pytest.mark.parametrize("seed", range(5))
def test_random_tables_are_as_in_a_slow_loop(tmp_path, seed):
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(300):
        source = str(rng.choice(["verification", "crowdsource-verification", "machine"]))
        confidence = rng.choice(["0.3", "0.7", "1.0"]) if source == "machine" else rng.choice(["0", "1", "1.0", "0.0"])
        lines.append(f"{rng.integers(30):04x},{source},/m/0{rng.choice(list('abcdef'))},{confidence}")
    for machine in (None, 0.7):
        data = OpenImages(str(write_open_images(tmp_path, {"train": lines}, False)), machine_confidence=machine)
        assert read(data, "train") == slow(lines, data.mids, machine)
        assert data.mids == [f"/m/0{letter}" for letter in "abcdef"]


# --- What is wrong, in one line

HEADER = "ImageID,Source,LabelName,Confidence"
WRONG = {
    "no column": (["ImageID,Source,Label,Confidence", "a,verification,/m/0a,1"], ("no column 'LabelName'",)),
    "an open quote": (['ImageID,"Source', "a,verification,/m/0a,1"], ("no column 'Source'", "Source a,verification")),
    "empty": ([""], ("no column 'ImageID'",)),
    "few cells": ([HEADER, "a,verification,/m/0a,1", "b,verification"], ("line 3", "2 cells, the header has 4")),
    "doubtful": ([HEADER, "a,verification,/m/0a,0.5"], ("line 2", "'0.5'", "must be 1 or 0, or the source machine")),
    "no number": ([HEADER, "a,verification,/m/0a,yes"], ("line 2", "'yes'", "must be 1 or 0")),
    "machine": ([HEADER, "a,machine,/m/0a,high"], ("line 2", "'high'", "no number from 0 to 1")),
    "names": ([HEADER, "a,verification,Cat,1"], ("line 2, column LabelName", "'Cat' is no id of a class")),
    "no image": ([HEADER, ",verification,/m/0a,1"], ("line 2, column ImageID", "is no file name")),
    "elsewhere": ([HEADER, "../../a,verification,/m/0a,1"], ("leads out of",)),
    "no rows": ([HEADER], ("no image has a label of the classes", "--data.root")),
    "only machine": ([HEADER, "a,machine,/m/0a,0.9"], ("no image has a label of the classes",)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_told(root, name):
    lines, words = WRONG[name]
    (root / TRAIN).write_text("\n".join(lines))
    refused(root, TRAIN, *words)


def test_bytes_that_are_no_text_are_told(root):
    (root / TRAIN).write_bytes(b"ImageID,Source,LabelName,Confidence\n\xff\xfe,a,b,1\n")
    refused(root, TRAIN, "save the table as UTF-8")


def test_two_tables_of_one_split_are_named(root):
    (root / "train-annotations-human-imagelabels-boxable.csv").write_text(f"{HEADER}\n000a,verification,/m/0d,1\n")
    refused(root, TRAIN, "imagelabels-boxable.csv may both be meant", "--data.train FILE")
    data = OpenImages(str(root), train="train-annotations-human-imagelabels-boxable.csv")
    assert read(data, "train") == {"000a": [1]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": ["Dog"]}, ("'Dog' is no id of a class", "/m/01g317")),
        ({"classes": ["/m/0a", "/m/0a"]}, ("'/m/0a' more than once",)),
        ({"classes": ["/m/0q"]}, ("no image has a label of the classes", "data.classes")),
        ({"classes": ["/m/0a", "/m/0q"]}, ("/m/0q is in no class description and no training label",)),
        ({"classes": "absent.txt"}, ("absent.txt cannot be read", "data.classes")),
        ({"train": "absent.csv"}, ("absent.csv cannot be read", "data.train")),
        ({"descriptions": "absent.csv"}, ("absent.csv cannot be read", "data.descriptions")),
        ({"machine_confidence": 1.5}, ("data.machine_confidence",)),
        ({"images": "some"}, ("data.images", "listed, present")),
    ],
)
def test_wrong_options_are_told(root, settings, words):
    refused(root, *words, **settings)


def test_a_folder_without_tables_or_pictures_is_told(root, tmp_path):
    refused(tmp_path / "nowhere", "nowhere has no table train-annotations-human-imagelabels.csv", "--data.train")
    for picture in (root / "train").iterdir():
        picture.unlink()
    refused(root, TRAIN, f"no picture in {root / 'train'} has a label of the classes", images="present")


def test_targets_larger_than_the_memory_are_refused(root, monkeypatch):
    monkeypatch.setattr("mlcl.data.open_images._memory", lambda: 10.0)
    refused(root, "4 images and 4 classes", "choose --data.classes, or --data.images present")
