"""The recipes of docs/data.md, run on small generated files of the published forms; their labels image by image."""

import csv
import json
import re
import shlex

import numpy as np
from scipy.io import savemat
from support.photo_lists import write_photos
from support.running import REPOSITORY
from support.trees import coco_json, write_voc

from mlcl.data.coco import COCO_CLASSES
from mlcl.data.csv_file import CSVDataset

_PAGE = (REPOSITORY / "docs" / "data.md").read_text()
_PART = _PAGE[_PAGE.index("## Recipes") : _PAGE.index("## Beside other readers")]
RECIPES = {title: text for title, text in re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", _PART, re.MULTILINE | re.DOTALL)}


def blocks(title, kind):
    return re.findall(rf"```{kind}\n(.*?)```", RECIPES[title], re.DOTALL)


def run(title, root, monkeypatch, mlcl):
    """The Python and the command of a recipe; its dataset, read."""
    monkeypatch.chdir(root)
    (source,), (line,) = blocks(title, "py"), blocks(title, "sh")
    exec(compile(source, title, "exec"), {})
    words = [str(root) if word == "DIR" else word for word in shlex.split(line)]
    assert words[:2] == ["mlcl", "check"]
    outcome = mlcl(*words[1:], "--data.num_workers", "0")
    assert outcome.status == 0, outcome.out + outcome.err
    options = {word.removeprefix("--data."): words[k + 1] for k, word in enumerate(words) if word.startswith("--data.")}
    data = CSVDataset(**{name: float(v) if name.endswith("fraction") else v for name, v in options.items()})
    data.prepare_data()
    data.setup("fit")
    return data, outcome.out


def labels(data, split, root):
    """Of each image the names that are present, and those that are unknown."""
    samples = data.splits[split]
    names = np.array(data.classes)
    return {
        path.relative_to(root).as_posix(): (set(names[target == 1]), set(names[target == -1]))
        for path, target in zip(samples.paths, samples.targets, strict=True)
    }


def known(table):
    return {path: (set(present), set()) for path, present in table.items()}


def test_every_recipe_is_run():
    tests = {"ChestX-ray14", "CheXpert", "PA-100K", "COCO-LT", "VOC-LT", "OpenImages-214"}
    assert set(RECIPES) == tests
    assert all(len(blocks(title, "py")) == len(blocks(title, "sh")) == 1 for title in RECIPES)


def test_chest_xray_14(tmp_path, monkeypatch, mlcl):
    found = ["Cardiomegaly", "No Finding", "Effusion|Pleural_Thickening", "Effusion", "Cardiomegaly|Effusion"]
    rows = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    ]
    names = [f"{patient:08d}_{k:03d}.png" for patient in range(1, 13) for k in range(2)]
    rows += [f"{n},{found[i % 5]},0,{i // 2 + 1},58,M,PA,2682,2749,0.143,0.143," for i, n in enumerate(names)]
    (tmp_path / "Data_Entry_2017.csv").write_text("".join(f"{row}\n" for row in rows))
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:20]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[20:]))
    write_photos(tmp_path / "images_001" / "images", names[:9])
    write_photos(tmp_path / "images_012" / "images", names[9:])
    data, out = run("ChestX-ray14", tmp_path, monkeypatch, mlcl)
    assert data.classes == ("Cardiomegaly", "Effusion", "Pleural_Thickening")
    all_found = {**labels(data, "train", tmp_path), **labels(data, "val", tmp_path), **labels(data, "test", tmp_path)}
    folder = {n: f"images_{'001' if i < 9 else '012'}/images/{n}" for i, n in enumerate(names)}
    expected = {folder[n]: {*found[i % 5].split("|")} - {"No Finding"} for i, n in enumerate(names)}
    assert all_found == known(expected)
    assert {path.name for path in data.splits["test"].paths} == set(names[20:])
    patients = [{path.name[:8] for path in data.splits[split].paths} for split in ("train", "val", "test")]
    assert len(data.splits["val"].paths) == 2 and not patients[0] & patients[1] and not patients[1] & patients[2]
    assert "are in train and in" not in out


def test_chexpert(tmp_path, monkeypatch, mlcl):
    folder = "CheXpert-v1.0-small"
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pleural Effusion"
    for part, patients in (("train", range(1, 11)), ("valid", (64541, 64542))):
        paths = [f"{folder}/{part}/patient{p:05d}/study1/view{v}_frontal.jpg" for p in patients for v in (1, 2)]
        cells = ["1.0,,", ",1.0,-1.0", ",0.0,1.0"]
        rows = [header, *(f"{path},Female,68,Frontal,AP,{cells[i % 3]}" for i, path in enumerate(paths))]
        write_photos(tmp_path, paths)
        (tmp_path / folder / f"{part}.csv").write_text("".join(f"{row}\n" for row in rows))
    data, out = run("CheXpert", tmp_path, monkeypatch, mlcl)
    assert data.classes == ("No Finding", "Edema", "Pleural Effusion")
    found = labels(data, "test", tmp_path)
    kinds = [({"No Finding"}, set()), ({"Edema"}, {"Pleural Effusion"}), ({"Pleural Effusion"}, set())]
    assert list(found.values()) == [kinds[0], kinds[1], kinds[2], kinds[0]]
    patients = [{path.parts[-3] for path in data.splits[split].paths} for split in ("train", "val")]
    assert len(data.splits["val"].paths) == 2 and not patients[0] & patients[1]
    assert "train knows no image without" not in out


def test_pa_100k(tmp_path, monkeypatch, mlcl):
    attributes = ["Female", "Hat", "Skirt&Dress", "boots"]
    content = {"attributes": cell_array(attributes)}
    expected = {}
    rng = np.random.default_rng(0)
    for k, part in enumerate(("train", "val", "test")):
        names = [f"{k}{i:05d}.jpg" for i in range(4)]
        matrix = rng.integers(0, 2, (4, 4), dtype=np.uint8)
        content |= {f"{part}_images_name": cell_array(names), f"{part}_label": matrix}
        write_photos(tmp_path / "release_data" / "release_data", names)
        for name, row in zip(names, matrix, strict=True):
            here = {attribute for attribute, code in zip(attributes, row, strict=True) if code}
            expected[part, f"release_data/release_data/{name}"] = (here, set())
    savemat(tmp_path / "annotation.mat", content)
    data, _ = run("PA-100K", tmp_path, monkeypatch, mlcl)
    assert data.classes == tuple(attributes)
    parts = {(part, path): found for part in data.splits for path, found in labels(data, part, tmp_path).items()}
    assert parts == expected


def cell_array(texts):
    """MATLAB's column of cells, as loadmat returns it: an array of texts in each."""
    cells = np.empty((len(texts), 1), dtype=object)
    cells[:, 0] = texts
    return cells


def test_coco_lt(tmp_path, monkeypatch, mlcl):
    ids = [*range(1, 12), *range(13, 82)]  # as in COCO, with a hole
    (tmp_path / "annotations").mkdir()
    train = {k: [ids[k % 80], ids[(k * 7) % 80], 1] for k in range(100, 180)} | {180: [], 181: [18]}
    val = {k: [ids[k % 80]] * 2 for k in range(200, 280)} | {280: []}
    for folder, images in (("train2017", train), ("val2017", val)):
        content = coco_json(dict(zip(ids, COCO_CLASSES, strict=True)), images)
        (tmp_path / "annotations" / f"instances_{folder}.json").write_text(json.dumps(content))
        write_photos(tmp_path / folder, [entry["file_name"] for entry in content["images"]])
    (tmp_path / "img_id.pkl").write_text("".join(f"{k}\n" for k in [*range(179, 99, -1), 180]))
    data, _ = run("COCO-LT", tmp_path, monkeypatch, mlcl)
    assert data.classes == tuple(sorted(COCO_CLASSES))
    names = dict(zip(ids, COCO_CLASSES, strict=True))
    for split, folder, images in (("train", "train2017", train), ("test", "val2017", val)):
        expected = {f"{folder}/{k:012d}.jpg": {names[c] for c in objects} for k, objects in images.items() if k != 181}
        assert labels(data, split, tmp_path) == known(expected)


def test_voc_lt(tmp_path, monkeypatch, mlcl):
    train = {f"2008_{k:06d}": {"cat": 1, "dog": (-1, 0, 1)[k % 3]} for k in range(6)}
    test = {f"{k:06d}": {"cat": (1, -1)[k % 2], "person": 1, "train": (0, -1)[k % 2]} for k in range(4)}
    write_voc(tmp_path, {"trainval": train}, "2012")
    write_voc(tmp_path, {"test": test}, "2007")
    listed = list(train)[4:1:-1]
    (tmp_path / "img_id.txt").write_text("".join(f"{image}\n" for image in listed))
    data, _ = run("VOC-LT", tmp_path, monkeypatch, mlcl)
    for split, year, images in (("train", 2012, {k: train[k] for k in listed}), ("test", 2007, test)):
        expected = {
            f"VOCdevkit/VOC{year}/JPEGImages/{image}.jpg": {name for name, flag in flags.items() if flag >= 0}
            for image, flags in images.items()
        }
        assert labels(data, split, tmp_path) == known(expected)


def test_openimages_214(tmp_path, monkeypatch, mlcl):
    tags = {f"test/{k:016x}": [["car"], ["Auto racing", "car"], [], ["hot dog"]][k % 4] for k in range(20)}
    lines = [",".join([image, *found]) for image, found in tags.items()]
    (tmp_path / "openimages_common_214_ram_annots.txt").write_text("\n".join(lines))
    (tmp_path / "openimages_common_214_ram_taglist.txt").write_text("Auto racing\ncar\nhot dog\naccident\n")
    write_photos(tmp_path / "imgs", [f"{image}.jpg" for image in tags])
    data, _ = run("OpenImages-214", tmp_path, monkeypatch, mlcl)
    found = labels(data, "train", tmp_path) | labels(data, "test", tmp_path)
    assert found == known({f"imgs/{image}.jpg": set(names) for image, names in tags.items()})
    assert len(data.splits["test"].paths) == 4
    with open(tmp_path / "openimages_214.csv", newline="") as table:
        assert len(list(csv.reader(table))) == 21
