"""``mlcl check``: what is wrong with a dataset, before a training finds out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.running import REPOSITORY, at_once
from support.s3_server import s3_server
from support.trees import write_coco, write_table, write_voc

from mlcl.cli import verbs
from mlcl.data.coco import COCO_CLASSES

ROWS = ["image,a,b,never,split", *(f"{i}.jpg,{i % 2},1,0,train" for i in range(6))]
ROWS += [f"t{i}.jpg,{i % 2},0,0,test" for i in range(4)]
FLAGS = ["--data", "CSVDataset", "--data.num_workers", "0", "--data.root"]


@pytest.fixture
def root(tmp_path):
    return write_table(tmp_path / "data", ROWS)


def problems(file):
    with open(file, newline="") as rows:
        return [tuple(row) for row in csv.reader(rows)]


def test_a_good_dataset(mlcl, root):
    outcome = mlcl("check", *FLAGS, root)
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith(
        "train 6 images, 1.50 labels per image, no positive for never, nothing known to be absent"
    )
    assert lines[1].startswith("val   4 images") and "the test images: selection sees them" in lines[1]
    assert lines[-1] == "all 10 images can be read"
    assert not Path("runs").exists()


def test_everything_that_is_wrong(mlcl, root, tmp_path):
    (root / "1.jpg").write_bytes(b"no picture")
    (root / "2.jpg").write_bytes((root / "3.jpg").read_bytes())
    (root / "t1.jpg").write_bytes((root / "0.jpg").read_bytes())
    (root / "t2.jpg").unlink()
    with (root / "labels.csv").open("a") as table:
        table.write("5.jpg,1,1,0,train\n5.jpg,1,1,0,test\n")
    outcome = mlcl("check", *FLAGS, root, "--output", "list.csv")
    assert outcome.status == 1 and outcome.err == "list.csv: 8 problems\n"
    assert problems("list.csv") == [
        ("problem", "split", "file", "detail"),
        ("bad image", "test", str(root / "t2.jpg"), "no such image"),
        ("bad image", "train", str(root / "1.jpg"), "not a picture in any known format"),
        ("leak", "train test", str(root / "5.jpg"), "listed twice"),
        ("leak", "train test", str(root / "t1.jpg"), f"same content as {root / '0.jpg'}, but other labels"),
        ("duplicate", "train", str(root / "3.jpg"), f"same content as {root / '2.jpg'}, but other labels"),
        ("class without positives", "test", "never", "no positive"),
        ("class without positives", "train", "never", "no positive"),
        ("class without absences", "train", "b", "nothing known to be absent"),
    ]
    for words in (
        "2 images cannot be read",
        "1.jpg: not a picture in any known format",
        "t2.jpg: no such image",
        "2 images are in more than one split: a test on them measures memory",
        "1 images are copies of others in their split",
        "labels.csv: 12 rows are 11 pictures",
        "2 of 10 images cannot be read",
    ):
        assert words in outcome.out, outcome.out


def test_the_terminal_gets_some_the_list_all(mlcl, tmp_path):
    root = write_table(tmp_path / "data", ["image,a", *(f"{i}.jpg,{i % 2}" for i in range(50))])
    for i in range(30):
        (root / f"{i}.jpg").write_bytes(b"")
    outcome = mlcl("check", *FLAGS, root, "--output", "new/list.csv")
    assert outcome.status == 1 and "  and 10 more; --output FILE.csv lists all" in outcome.out
    assert sum("not a picture" in line for line in outcome.out.splitlines()) == 20
    assert len(problems("new/list.csv")) == 31


@pytest.mark.filterwarnings("ignore:.*DataLoader will create", "ignore:.*use of fork")
def test_processes_find_the_same(mlcl, root):
    (root / "1.jpg").write_bytes(b"no picture")
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("3.jpg", "gone.jpg"))
    outs = [mlcl("check", *FLAGS, root, "--data.num_workers", str(n)) for n in (0, 2)]
    assert outs[0].out == outs[1].out and outs[0].status == outs[1].status == 1


def test_configs_in_layers_and_flags_as_for_fit(mlcl, demo_root, tmp_path):
    (tmp_path / "mine.yaml").write_text("data:\n  init_args:\n    train_images: 80\n    test_images: 25\n")
    demo = ["--config", str(REPOSITORY / "configs" / "demo.yaml"), "-c=mine.yaml", "--data.root", str(demo_root)]
    outcome = mlcl("check", *demo, "--data.scene_size=64", "--data.num_workers", "0", "--data.val_fraction", "0.25")
    assert outcome.status == 0, outcome.err
    assert "train 60 images" in outcome.out and "val   20 images" in outcome.out and "test  25 images" in outcome.out
    assert outcome.out.endswith("all 105 images can be read\n")


TRAIN, BOTH = ["image,a", "0.jpg,1"], ["image,a,split", "0.jpg,1,train", "1.jpg,1,train", "t.jpg,1,test"]
SKIP = ["--data.on_bad_image", "skip"]
# What is done to the pictures, the table, settings; what check says in a line of its own, and fit in its last one.
EDGES = {
    "all bad": (
        "bad",
        BOTH,
        [],
        "3 of 3 images cannot be read",
        "; mlcl check finds all of these, --data.on_bad_image",
    ),
    "all skipped": ("bad", BOTH, SKIP, "3 of 3 images cannot be read", "1 of 1 test images cannot be read, more than"),
    "all gone": ("gone", BOTH, SKIP, "3 of 3 images cannot be read", "2 of 2 train images are missing, the first is "),
    "no test": ("", TRAIN, [], "no val, no test images: mlcl fit would stop", "has no val images: hold some out"),
    "no training": (
        "",
        [BOTH[0], BOTH[3]],
        [],
        "no train images: mlcl fit would stop",
        "no train images: check its spli",
    ),
    "none labelled": (
        *("", [BOTH[0], "0.jpg,0,train", "t.jpg,0,test"], ["--data.empty_images", "drop"]),
        *(
            "no train, no val, no test images: mlcl fit would stop",
            "no train images: check its splits and data.val_fraction",
        ),
    ),
    "none held out": ("", BOTH, ["--data.val_fraction", "0.1"], "no val images: mlcl fit would stop", "no val images"),
    "all absent": (
        *("", [BOTH[0], "0.jpg,0,train", "1.jpg,0,train", "t.jpg,1,test"], []),
        *("no train image has a label: mlcl fit would stop", "none of its 2 train images has a label"),
    ),
    "all unknown": (
        *("", [BOTH[0], "0.jpg,-1,train", "1.jpg,,train", "t.jpg,1,test"], []),
        *("no train image has a label: mlcl fit would stop", "none of its 2 train images has a label"),
    ),
    "the only label held out": (
        *("", [BOTH[0], "0.jpg,0,train", "1.jpg,1,train"], ["--data.val_fraction", "0.5", "--data.split_seed", "3"]),
        *("no train image has a label: mlcl fit would stop", "none of its 1 train images has a label"),
    ),
}
NETWORK = [
    "--model.network.backbone",
    "test_resnet",
    "--model.network.pretrained",
    "false",
    "--trainer.max_epochs",
    "1",
]


@pytest.mark.parametrize("edge", EDGES)
def test_where_there_is_nothing_to_train_on_both_say_so(mlcl, tmp_path, edge):
    harm, rows, given, said, last = EDGES[edge]
    root = write_table(tmp_path / "data", rows)
    for picture in root.glob("*.jpg") if harm else ():
        picture.write_bytes(b"no picture") if harm == "bad" else picture.unlink()
    settings = [*FLAGS, root, "--data.image_size", "32", *given]
    outcome = mlcl("check", *settings)
    assert outcome.status == 1 and said in outcome.out.splitlines() and outcome.err == "", outcome.out
    outcome = mlcl("fit", *settings, *NETWORK)
    assert outcome.status == 1 and "Traceback" not in outcome.err
    told = outcome.err.splitlines()[-1]
    assert told.startswith("mlcl: ") and last in told, outcome.err


def test_one_class_is_a_dataset(mlcl, tmp_path):
    root = write_table(
        tmp_path / "data", ["image,a,split", *(f"{i}.jpg,{i % 2},train" for i in range(4)), "t.jpg,1,test"]
    )
    outcome = mlcl("check", *FLAGS, root)
    assert outcome.status == 0 and "train 4 images, 0.50 labels per image, 2 without a label" in outcome.out
    outcome = mlcl("fit", *FLAGS, root, "--data.image_size", "32", "--data.batch_size", "2", *NETWORK)
    assert outcome.status == 0 and "1 classes" in outcome.out and "Warning" not in outcome.err, outcome.err


def test_a_dataset_of_ones_own(mlcl, root, tmp_path):
    (tmp_path / "mine.py").write_text("from mlcl.data import CSVDataset\nclass Mine(CSVDataset):\n    pass\n")
    outcome = mlcl("check", "--import", "mine", "--data", "mine.Mine", "--data.root", root, "--data.num_workers", "0")
    assert outcome.status == 0, outcome.err
    outcome = mlcl("check", "--import", "nothing", *FLAGS, root)
    assert outcome.status == 1 and outcome.err.startswith("mlcl: --import nothing: No module named")


def test_annotations_are_checked_first(mlcl, tmp_path):
    write_coco(tmp_path / "coco", {1: "cat"}, {1: [1]}, {2: [1]})
    outcome = mlcl("check", "--data", "COCO2014", "--data.root", "coco")
    assert outcome.status == 1 and outcome.err.count("\n") == 1 and "1 categories, expected 80" in outcome.err
    outcome = mlcl("check", *FLAGS, "nowhere")
    assert outcome.status == 1 and outcome.err.startswith("mlcl: nowhere/labels.csv cannot be read")


AT_ONCE = [
    ([], "check needs --config FILE or --data CLASS; mlcl check --help shows the options"),
    (["--output", "x.csv"], "check needs --config FILE or --data CLASS"),
    (["--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
    (["--data", "Demo", "--config=nowhere.yaml"], "--config nowhere.yaml: no such file"),
    (["--data", "Demo", "--output", "x.txt"], "--output x.txt: the name must end in .csv"),
    (["--data", "Demo", "--ouput", "x.csv"], "check: unknown option --ouput (did you mean --output?)"),
    (["--data", "Demo", "x"], "unexpected 'x'"),
    (["--data", "Demo", "--model.x", "1"], "check: unknown option --model.x"),
]


def test_mistakes_that_need_no_class(tmp_path):
    answers = at_once([["check", *arguments] for arguments, _ in AT_ONCE], tmp_path)
    for (arguments, words), answer in zip(AT_ONCE, answers, strict=True):
        assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1), (arguments, answer)
        assert answer.err.startswith("mlcl: ") and words in answer.err, (arguments, answer)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--data", "Nope"], 2, "--data: unknown class 'Nope'; known: COCO2014, COCOJSON"),
        ([*FLAGS, "data", "--data.rot", "x"], 2, "--data.rot: unknown option (did you mean root?)"),
        ([*FLAGS, "data", "--data.batch_size", "many"], 2, "--data.batch_size: expected an integer, got 'many'"),
        ([*FLAGS, "data", "--data.batch_size", "0"], 1, "data.batch_size is 0, it must be at least 1"),
        ([*FLAGS, "data", "--data.val_fraction", "-0.5"], 1, "data.val_fraction is -0.5"),
        ([*FLAGS, "data", "--output", "file/x.csv"], 1, "file/x.csv cannot be written"),
    ],
)
def test_mistakes_that_need_the_classes(mlcl, root, tmp_path, arguments, status, words):
    (tmp_path / "file").write_text("")
    outcome = mlcl("check", *arguments)
    assert outcome.status == status, outcome.err
    assert words in outcome.err and outcome.err.count("\n") == 1 and outcome.err.startswith("mlcl: ")


def test_what_is_passed_on_keeps_its_order_and_its_values():
    given = ["--output", "o.csv", "--data", "X", "--data.a", "-1", "--data.b=2", "-c", "f", "--config", "g", "stray"]
    own, others = verbs._divided(given, ("--config", "-c", "--data", "--data."))
    assert own == ["--output", "o.csv", "stray"]
    assert others == ["--data", "X", "--data.a", "-1", "--data.b=2", "-c", "f", "--config", "g"]
    assert verbs._divided(given, ()) == (given, [])


def test_a_class_of_which_nothing_is_known_to_be_absent(mlcl, tmp_path):
    rows = ["image,a,finding,split", *(f"{i}.png,{i % 2},{'1' if i % 3 else ''},train" for i in range(6))]
    root = write_table(tmp_path / "data", [*rows, "t.png,1,0,test", "u.png,0,1,test"])
    outcome = mlcl("check", *FLAGS, root, "--output", "list.csv")
    assert outcome.status == 0
    assert "nothing known to be absent for finding" in outcome.out
    assert "the network learns to predict it always" in outcome.out and "--data.empty_cells absent" in outcome.out
    assert ("class without absences", "train", "finding", "nothing known to be absent") in problems("list.csv")
    assert "always" not in mlcl("check", *FLAGS, root, "--data.empty_cells", "absent").out


def grey(path, most, kind=np.uint16):
    Image.fromarray((np.linspace(0, 1, 64).reshape(8, 8) * most).astype(kind)).save(path)


@pytest.mark.parametrize(
    ("most", "kind", "words"),
    [(4095, np.uint16, "whole numbers from 0 to 4095"), (255, np.float32, "floats from 0 to 255"), (1, np.float32, "")],
)
def test_pictures_of_more_than_8_bits(mlcl, root, most, kind, words):
    """A picture that cannot be what it seems is refused with the option that says what it is."""
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("\n3.jpg", "\n3.tiff"))
    grey(root / "3.tiff", most, kind)
    outcome = mlcl("check", *FLAGS, root)
    assert outcome.status == (1 if words else 0) and "Traceback" not in outcome.err
    if words:
        (line,) = (line for line in outcome.out.splitlines() if "3.tiff: " in line)
        assert words in line and "--data.white" in line
    assert mlcl("check", *FLAGS, root, "--data.white", str(most)).status == 0


@pytest.mark.filterwarnings("ignore:.*DataLoader will create", "ignore:.*use of fork")
def test_pictures_beyond_the_limit(mlcl, root):
    for workers in ("0", "1"):
        given = ["--data.num_workers", workers, "--data.max_pixels"]  # the pictures have 40 x 30
        outcome = mlcl("check", *FLAGS, root, *given, "1199")
        assert outcome.status == 1 and "10 of 10 images cannot be read" in outcome.out
        assert "Image size (1200 pixels) exceeds limit of " in outcome.out and "--data.max_pixels N" in outcome.out
        assert mlcl("check", *FLAGS, root, *given, "1200").status == 0


@pytest.mark.parametrize("given", [["--data.max_pixels", "0"], ["--data.white", "0"], ["--data.white", "-1"]])
def test_limits_that_cannot_be(mlcl, root, given):
    outcome = mlcl("check", *FLAGS, root, *given)
    assert outcome.status == 1 and f"data.{given[0].removeprefix('--data.')} is " in outcome.err


def test_paths_that_were_written_on_windows(mlcl, root):
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("\n3.jpg", "\nimages\\3.jpg"))
    outcome = mlcl("check", *FLAGS, root)
    assert outcome.status == 1
    (line,) = (line for line in outcome.out.splitlines() if "no such image" in line)
    assert "Windows" in line and "use /" in line


def test_a_coco_file_whose_annotations_belong_to_other_images(mlcl, tmp_path):
    categories = {number + 1: name for number, name in enumerate(COCO_CLASSES)}
    root = write_coco(tmp_path / "coco", categories, {1: [1], 2: [2]}, {3: [1]})
    file = root / "annotations" / "instances_train2014.json"
    content = json.loads(file.read_text())
    flags = ["--data", "COCO2014", "--data.num_workers", "0", "--data.root", str(root)]
    for entry in content["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    file.write_text(json.dumps(content))
    outcome = mlcl("check", *flags)
    assert outcome.status == 0 and "train 2 images, 1.00 labels per image" in outcome.out
    for entry in content["annotations"]:
        entry["image_id"] = f"image {entry['image_id']}"
    file.write_text(json.dumps(content))
    outcome = mlcl("check", *flags)
    assert outcome.status == 1 and "none of its 2 annotations belongs to one of its 2 images" in outcome.err
    file.write_text(json.dumps({**content, "annotations": []}))
    outcome = mlcl("check", *flags)
    assert outcome.status == 1 and "no train image has a label: mlcl fit would stop" in outcome.out.splitlines()


def test_a_voc_tree_whose_class_files_leave_images_out(mlcl, tmp_path):
    devkit = write_voc(tmp_path, {"trainval": {"a": {"cat": 1}, "b": {}}, "test": {"c": {}}})
    for file in (devkit / "ImageSets" / "Main").glob("*_trainval.txt"):
        file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("b")))
    outcome = mlcl("check", "--data", "VOC2007", "--data.num_workers", "0", "--data.root", str(tmp_path))
    train, *said = outcome.out.splitlines()
    assert outcome.status == 0 and train.startswith("train 2 images, 0.50 labels per image, 1 without a label")
    assert "train: 1 images are not in every class's file; they count as absent there" in said
    for split in ("val", "test"):
        assert f"{split}: no class is both present and known to be absent, so its mAP is not a number" in said


# --- Packs


@pytest.fixture
def packed(mlcl, tmp_path):
    """A dataset with three train chunks and one of test, packed; the flags that read the pack."""
    rows = [
        "image,a,split",
        *(f"{i}.jpg,{i % 2},train" for i in range(60)),
        *(f"t{i}.jpg,{i % 2},test" for i in range(4)),
    ]
    root = write_table(tmp_path / "data", rows)
    for i in range(60):
        with (root / f"{i}.jpg").open("ab") as picture:
            picture.write(bytes(40_000))  # behind the end of a JPEG anything may stand
    assert mlcl("pack", *FLAGS, root, "--output", "pack", "--chunk_mb", "1").status == 0
    return ["--data", "Streamed", "--data.num_workers", "0", "--data.root"]


def test_a_pack_says_what_its_files_said(mlcl, root, tmp_path):
    (root / "1.jpg").write_bytes(b"no picture")
    (root / "2.jpg").write_bytes((root / "3.jpg").read_bytes())
    (root / "t1.jpg").write_bytes((root / "0.jpg").read_bytes())
    assert mlcl("pack", *FLAGS, root, "--output", "pack").status == 0
    of_files = mlcl("check", *FLAGS, root, "--output", "files.csv")
    flags = ["--data", "Streamed", "--data.root", "pack", "--data.num_workers"]
    of_pack = mlcl("check", *flags, "0", "--output", "pack.csv")
    assert of_files.status == of_pack.status == 1
    assert of_pack.out == of_files.out.replace(f"{root}/", "").replace(
        "give --data.empty_cells", "pack it again with --data.empty_cells"
    )
    plain = [tuple(cell.replace(f"{root}/", "") for cell in row) for row in problems("files.csv")]
    assert problems("pack.csv") == plain and {row[0] for row in plain} > {"bad image", "leak", "duplicate"}


@pytest.mark.slow  # in a folder: the tests below
@pytest.mark.filterwarnings("ignore:.*DataLoader will create", "ignore:.*use of fork")
def test_a_pack_in_a_store(mlcl, packed, tmp_path, monkeypatch):
    with s3_server() as server:
        place = server.upload(tmp_path / "pack", "pack")
        for workers in ("0", "2"):
            outcome = mlcl("check", *packed, place, "--data.num_workers", workers)
            assert outcome.status == 0 and outcome.out.endswith("all 64 images can be read\n"), outcome.err
        chunk = (tmp_path / "pack" / "train" / "chunk-0-1.bin").read_bytes()
        server.client().put_object(Bucket="pictures", Key="pack/train/chunk-0-1.bin", Body=chunk[:-1])
        outcome = mlcl("check", *packed, place, "--data.cache_dir", "other")
        assert outcome.status == 1 and f"  {place}/train/chunk-0-1.bin: has {len(chunk) - 1:,} bytes, " in outcome.out
        assert "images lost with it: 2" in outcome.out and " of 64 images cannot be read" in outcome.out


def test_chunks_that_are_not_what_was_packed(mlcl, packed):
    train = Path("pack/train")
    chunks = {n: (train / f"chunk-0-{n}.bin").read_bytes() for n in range(3)}

    def told(*words):
        outcome = mlcl("check", *packed, "pack", "--output", "list.csv")
        assert outcome.status == 1 and "chunks are not what was packed" in outcome.out, outcome.err
        lines = [line for line in outcome.out.splitlines() if line.startswith("  ")]
        assert len(lines) == len(words) and all(w in line for w, line in zip(words, lines, strict=True)), lines
        kinds = [row[:3] for row in problems("list.csv")[1:]]
        assert kinds == [("damaged chunk", "train", line.split(":")[0].strip()) for line in lines]
        return outcome.out.splitlines()[-1]

    (train / "chunk-0-0.bin").write_bytes(chunks[1])
    (train / "chunk-0-1.bin").write_bytes(chunks[0])
    (train / "chunk-0-2.bin").unlink()
    last = told("chunk-0-0.bin: ", "chunk-0-1.bin: ", "chunk-0-2.bin: is missing; images")
    assert last == "60 of 64 images cannot be read"
    (train / "chunk-0-2.bin").write_bytes(chunks[2][:100])
    (train / "chunk-0-1.bin").write_bytes(chunks[1])
    flipped = bytearray(chunks[0])
    flipped[len(flipped) // 2] ^= 1
    (train / "chunk-0-0.bin").write_bytes(flipped)
    told("is not in it; images lost with it: 1", f"has 100 bytes, {len(chunks[2]):,} were packed: pack again")
    table = train / "samples.npy"
    table.write_bytes(table.read_bytes()[:-1])
    outcome = mlcl("check", *packed, "pack")
    assert outcome.status == 1 and outcome.err.startswith("mlcl: pack/train/samples.npy is no table of this pack")
    Path("pack/mlcl.json").unlink()
    assert "pack holds no pack (no mlcl.json): mlcl pack makes one" in mlcl("check", *packed, "pack").err


def test_a_pack_knows_its_protocol(mlcl, tmp_path):
    write_voc(tmp_path, {"trainval": {"a": {"cat": 1}, "b": {}}, "test": {"c": {}}})
    flags = ["--data", "VOC2007", "--data.num_workers", "0", "--data.root", str(tmp_path)]
    assert mlcl("pack", *flags, "--output", "pack").status == 0
    (line,) = (line for line in mlcl("check", *flags).out.splitlines() if line.startswith("protocol: "))
    assert line in mlcl("check", "--data", "Streamed", "--data.root", "pack").out.splitlines()
