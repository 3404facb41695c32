"""What is given is what is recorded and read again: names that look like numbers, paths below the home folder."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.running import REPOSITORY
from support.trees import write_table

from mlcl.cli.settings import parse
from mlcl.data import CSVDataset, Demo
from mlcl.data.row_file import cache_folder
from mlcl.inference import load
from mlcl.runs import provenance, record
from mlcl.system import yaml_text

DEMO = ["--config", str(REPOSITORY / "configs" / "demo.yaml")]
SMALL = [
    *("--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0", "--trainer.max_epochs", "1"),
    *("--model.network.backbone", "test_resnet", "--trainer.accelerator", "cpu", "--data.val_fraction", "0.3"),
    *("--test_after_fit", "false"),
]
CLASSES = ["0x1F", "12e4", "1_000", "null", "yes"]


def write_odd_table(folder: Path) -> list[str]:
    """A dataset whose columns and classes look like numbers; returns the flags for it."""
    rows = [f"{i}.jpg,{CLASSES[i % 5]};{CLASSES[i % 3]},{'train' if i < 20 else 'test'}" for i in range(25)]
    write_table(folder, ["1e2,3e5,.5e1", *rows])
    columns = ["--data.image_column", "1e2", "--data.labels_column", "3e5", "--data.split_column", ".5e1"]
    return ["--data", "CSVDataset", "--data.root", str(folder), *columns]


def test_names_that_look_like_numbers_are_tested_continued_and_repeated(mlcl, tmp_path):
    flags = [*write_odd_table(tmp_path / "1e5"), *SMALL]
    first = mlcl("fit", *flags, "--name", "1e-3")
    assert first.status == 0, first.err
    run = Path("runs/1e-3/version_0")
    for line in (
        ["test", "--ckpt_path", run],
        ["fit", "--ckpt_path", "last", "--name", "1e-3"],
        ["fit", "--config", run / "config.yaml"],
        ["calibrate", "--ckpt_path", run, "--num_workers", "0", "--output", "c.ckpt"],
    ):
        outcome = mlcl(*line)
        assert outcome.status == 0 and "overrides" not in outcome.err, (line, outcome.err)
    assert Path("runs/1e-3/version_1/checkpoints/best.ckpt").is_file()
    assert list(load("c.ckpt", "cpu").classes) == CLASSES


@pytest.mark.parametrize(
    "name", ["1e-3", "5", "1_000", "yes", "2026-11-29", "12:30", "a: b", "!x", "&x", "*x", "=", "-"]
)
def test_a_name_on_the_command_line_is_text(mlcl, name):
    outcome = mlcl("fit", *DEMO, f"--name={name}", "--print_config")
    assert outcome.status == 0 and yaml.safe_load(outcome.out)["name"] == name, outcome.err


@pytest.mark.parametrize(
    ("text", "got"), [("[no, yes]", "False"), ("[1, 2]", "1"), ("[cat, 12e4]", "120000"), ("[null]", "None")]
)
@pytest.mark.parametrize("where", ["flag", "file"])
def test_a_list_of_names_that_yaml_reads_as_something_else_is_one_line(mlcl, text, got, where):
    Path("mine.yaml").write_text(f"data: {{class_path: CSVDataset, init_args: {{classes: {text}}}}}\n")
    flags = ["--data", "CSVDataset", "--data.classes", text] if where == "flag" else ["--config", "mine.yaml"]
    outcome = mlcl("fit", *flags)
    assert outcome.status == 2 and outcome.err.count("\n") == 1, outcome.err
    assert "data.classes: expected text" in outcome.err and got in outcome.err and "in quotes" in outcome.err


@pytest.mark.parametrize("line", ["name: 1e-3", "name: no", "data: {class_path: CSVDataset, init_args: {csv: 12e4}}"])
def test_a_text_that_yaml_reads_as_something_else_is_one_line(mlcl, line):
    Path("mine.yaml").write_text(f"{line}\n")
    outcome = mlcl("fit", "--config", "mine.yaml")
    assert outcome.status == 2 and "expected text" in outcome.err and "in quotes" in outcome.err, outcome.err


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder with an odd dataset in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_home_folder_on_the_command_line(mlcl, home):
    """As an option=~/x reaches us from a shell, in every verb; recorded is the whole path."""
    flags = [word.replace(str(home), "~") for word in write_odd_table(home / "pictures")]
    outcome = mlcl(
        "fit", *flags, *SMALL, "--trainer.default_root_dir=~/trainings", "--data.cache=disk", "--data.cache_dir=~/c"
    )
    assert outcome.status == 0, outcome.err
    run = home / "trainings" / "runs" / "run" / "version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["root"] == str(home / "pictures")
    assert config["trainer"]["default_root_dir"] == str(home / "trainings") and list((home / "c").glob("*.npy"))
    for line in (
        ["validate", "--ckpt_path", "last", "--trainer.default_root_dir=~/trainings", "--data.root=~/pictures"],
        ["calibrate", "--ckpt_path=~/trainings/runs/run", "--output=~/c.ckpt", "--num_workers", "0"],
        ["predict", "--ckpt_path=~/c.ckpt", "--images=~/pictures/1*.jpg", "--output=~/p.csv", "--num_workers", "0"],
        ["check", *flags, "--output=~/bad.csv", "--data.num_workers", "0"],
    ):
        outcome = mlcl(*line)
        assert outcome.status == 0, (line, outcome.err)
    assert (home / "p.csv").is_file() and (home / "bad.csv").is_file() and not Path("~").exists()
    assert list(load("~/trainings/runs/run", "cpu").classes) == CLASSES


def test_the_home_folder_in_a_config(mlcl, home):
    write_odd_table(home / "pictures")
    (home / "mine.yaml").write_text(
        "data:\n  class_path: CSVDataset\n"
        "  init_args: {csv: ~/pictures/labels.csv, image_column: '1e2', labels_column: '3e5', split_column: '.5e1'}\n"
        "trainer:\n  default_root_dir: ~/trainings\n"
        "  callbacks: {class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: ~/more}}\n"
    )
    outcome = mlcl("fit", "--config=~/mine.yaml", *SMALL)
    assert outcome.status == 0, outcome.err
    stored = record.load("~/trainings/runs/mine/version_0/checkpoints/best.ckpt")
    data = record.config_of(stored, "")["data"]["init_args"]
    assert (data["root"], data["csv"]) == (str(home / "pictures"), "labels.csv")
    assert list((home / "more").glob("*.ckpt")) and not Path("~").exists()
    (home / "more.yaml").write_text("model: {init_from: ~/nowhere}\n")
    outcome = mlcl("fit", "--config=~/mine.yaml", "--config=~/more.yaml", *SMALL)
    assert outcome.status == 1 and f"{home}/nowhere: no such checkpoint" in outcome.err, outcome.err


def test_the_home_folder_in_python(home, monkeypatch):
    write_table(home / "csv", ["image,cat", "a.jpg,1"])
    assert CSVDataset(csv="~/csv/labels.csv").root == CSVDataset(root="~/csv").root == home / "csv"
    data = Demo(root="~/demo", cache_dir="~/cache")
    assert (data.root, data.cache_dir) == (home / "demo", str(home / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/.kept")
    assert cache_folder() == home / ".kept" / "mlcl"


@pytest.mark.parametrize("key", ["limit_train_batches", "max_epochs", "max_steps"])
def test_a_training_of_nothing_is_refused(mlcl, demo, key):
    outcome = mlcl("fit", *demo, f"--trainer.{key}", "0")
    assert outcome.status == 1 and outcome.err.count("\n") == 1, outcome.err
    assert f"--trainer.{key} is 0" in outcome.err and "nothing would be trained" in outcome.err
    assert not Path("runs").exists()


def test_a_share_of_no_batch_is_refused(mlcl, demo):
    outcome = mlcl("fit", *demo, "--trainer.limit_train_batches", "0.01")
    assert outcome.status == 1, outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith("mlcl: --trainer.limit_train_batches 0.01 of ") and "less than one" in last, last
    assert not list(Path().glob("runs/*/*"))


@pytest.mark.parametrize(("verb", "key"), [("test", "limit_test_batches"), ("validate", "limit_val_batches")])
def test_an_evaluation_of_nothing_is_refused(mlcl, trained, verb, key):
    outcome = mlcl(verb, "--ckpt_path", trained, f"--trainer.{key}", "0.0")
    assert outcome.status == 1 and outcome.err.count("\n") == 1, outcome.err
    assert f"--trainer.{key} is 0.0" in outcome.err and "nothing would be evaluated" in outcome.err


@pytest.mark.parametrize("text", ["1e-3", "on", "!!x", "a: b", " 日本 "])
def test_every_text_is_read_as_it_was_written(mlcl, text):
    """From a config to the settings, to config.yaml, to the settings."""
    data = {"csv": text, "image_column": text, "labels_column": text, "val_csv": text, "classes": [text, "cat"]}
    network = {"backbone": text, "weights": text, "head": {"class_path": "GlobalPool"}}
    logger = {"class_path": "WandbLogger", "init_args": {"name": text, "project": text, "tags": [text], "notes": text}}
    given = {
        "name": text,
        "data": {"class_path": "CSVDataset", "init_args": data},
        "model": {"network": {"class_path": "mlcl.network.Network", "init_args": network}, "init_from": text},
        "trainer": {"default_root_dir": text, "logger": logger},
    }
    Path("first.yaml").write_text(yaml_text.dump(given))
    first = parse("fit", ["--config", "first.yaml"]).as_dict()
    for part, wanted in (("data", data), ("model.network", network), ("trainer.logger", logger["init_args"])):
        found = record.flat(first)
        assert {key: found[f"{part}.{key}"] for key in wanted if key != "head"} == {
            key: value for key, value in wanted.items() if key != "head"
        }
    provenance.describe(Path("run"), first)
    assert parse("fit", ["--config", "run/config.yaml"]).as_dict() == first


def test_null_of_a_head_s_option_is_nothing(mlcl, demo):
    """Two classes deep, jsonargparse makes the text None of it (findings)."""
    line = ["--model.network.head", "QueryDecoder", "--model.network.head.queries", "null"]
    outcome = mlcl("fit", *demo, *line, "--model.network.init_args.head.init_args.dim=null", "--print_config")
    assert outcome.status == 0, outcome.err
    head = yaml.safe_load(outcome.out)["model"]["network"]["init_args"]["head"]["init_args"]
    assert head["queries"] is None and head["dim"] is None
    refused = mlcl("fit", *demo, *line, "--model.network.head.heads", "null")
    assert refused.status == 2 and "--model.network.head.heads: null is not possible here" in refused.err


BEFORE_LIGHTNING = """
import sklearn.metrics
from mlcl.cli.settings import parse
flags = ["--trainer.limit_test_batches", "1", "--trainer.limit_val_batches", "0.5"]
trainer = parse("fit", [*flags, "--data", "Demo"]).config.trainer
print(repr(trainer.limit_test_batches), repr(trainer.limit_val_batches))
"""


def test_one_batch_is_one_batch_and_half_is_half():
    flags = ["--trainer.limit_test_batches", "1", "--trainer.limit_val_batches", "0.5", "--data", "Demo"]
    trainer = parse("fit", flags).config.trainer
    assert repr(trainer.limit_test_batches) == "1" and repr(trainer.limit_val_batches) == "0.5"


@pytest.mark.slow  # a process that imports everything anew
def test_one_batch_is_one_batch_whatever_is_imported_first():
    done = subprocess.run([sys.executable, "-c", BEFORE_LIGHTNING], capture_output=True, text=True, check=False)
    assert done.stdout == "1 0.5\n", done.stderr
