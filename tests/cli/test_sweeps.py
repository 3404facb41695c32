"""Sweeps: what W&B's agent would run of configs/sweeps is what our command line understands, at the first try."""

import random
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
import yaml
from support.running import REPOSITORY, tiny_data
from support.wandb_file import read_run
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from mlcl.__main__ import _mistake
from mlcl.cli.command_line import CommandLine, _with_null
from mlcl.cli.settings import parse

SWEEPS = sorted(REPOSITORY.glob("configs/sweeps/*.yaml"))
every_sweep = pytest.mark.parametrize("file", SWEEPS, ids=lambda path: path.stem)
SAMPLES = 2  # in the order of the file, and sorted by name
TINY = [
    *("--model.network.backbone", "test_resnet", "--model.network.pretrained", "false", "--trainer.precision", "null"),
    *("--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0", "--data.val_fraction", "0.5"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
]
BASE = ["--config", str(REPOSITORY / "configs" / "coco.yaml")]
PSCL = [*BASE, "--config", str(REPOSITORY / "configs" / "methods" / "pscl.yaml")]


def read(file: Path) -> dict[str, Any]:
    """As ``wandb sweep`` reads it (0.31.0 leaves the file open, which is a warning here)."""
    return yaml.safe_load(file.read_text())


def draw(chance: random.Random, parameter: dict[str, Any]) -> Any:
    """A value as W&B's server might choose it; unknown distributions are a mistake in the file or a gap here."""
    if "values" in parameter:
        return chance.choice(parameter["values"])
    low, high = parameter["min"], parameter["max"]
    kind = parameter["distribution"]
    if kind == "log_uniform_values":
        return float(np.exp(chance.uniform(np.log(low), np.log(high))))
    return {"uniform": chance.uniform, "int_uniform": chance.randint}[kind](low, high)


def samples(file: Path, count: int = SAMPLES) -> Iterator[dict[str, Any]]:
    """Parameters of so many runs: in the order of the file and, as a server may sort them, by name."""
    chance, parameters = random.Random(file.stem), read(file)["parameters"]
    for number in range(count):
        names = list(parameters) if number % 2 else sorted(parameters)
        yield {name: draw(chance, parameters[name]) for name in names}


def rendered(file: Path, values: dict[str, Any]) -> list[str]:
    """The words that the agent would start, ``${env} mlcl`` left out."""
    command = create_sweep_command(read(file)["command"])
    flags = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})["args"]
    assert command[:2] == ["${env}", "mlcl"] and command[-1] == "${args}", "what a user adds goes before the values"
    return [word for part in command[2:] for word in (flags if part == "${args}" else [part])]


def at(config: Any, key: str) -> Any:
    """What stands in a config where the flag of this name points."""
    for part in key.split("."):
        config = config.get("init_args", config)[part]
    chosen = isinstance(config, dict) and "class_path" in config
    return config["class_path"].rpartition(".")[2] if chosen else config


@pytest.fixture
def repository(tmp_path: Path, monkeypatch) -> Path:
    """A folder with configs/, where an agent is started."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def agent_environment(monkeypatch, repository):
    """What an agent sets for its runs; W&B reads it once per process, so the process forgets what it knew."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_DIR", str(repository))
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # for the restoring afterwards
        monkeypatch.delenv(name)
    wandb.teardown()
    yield
    wandb.teardown()


def test_there_are_sweeps():
    assert {file.stem for file in SWEEPS} >= {"learning_rate", "temperature", "loss_weights", "seeds_by_method", "head"}


@every_sweep
def test_it_is_a_sweep(file):
    """By W&B's documentation; its own schema is in a package that wandb does not bring along."""
    text, sweep = file.read_text(), read(file)
    assert text.startswith("# ") and f"wandb sweep configs/sweeps/{file.name}" in text
    assert "Costs " in text, "say what it costs in runs"
    allowed = {"program", "project", "name", "command", "method", "metric", "early_terminate", "run_cap", "parameters"}
    assert set(sweep) <= allowed and (sweep["program"], sweep["project"]) == ("mlcl", "mlcl")
    stopped = {"impute": "best"} if sweep["method"] == "bayes" else {}  # else a stopped run counts as the worst of all
    assert sweep["metric"] == {"name": "val/mAP", "goal": "maximize", **stopped}
    for name, parameter in sweep["parameters"].items():
        assert set(parameter) in ({"values"}, {"distribution", "min", "max"}), name
        assert sweep["method"] != "grid" or "values" in parameter, "a grid has finitely many values"
        assert "values" in parameter or parameter["min"] < parameter["max"]
    seeds = "seed_everything" in sweep["parameters"]
    assert ("early_terminate" in sweep) is not seeds, "a seed that is stopped early leaves a mean of the lucky ones"
    assert sweep["method"] == "grid" or sweep["run_cap"], "it must end"
    number = sweep.get("run_cap") or int(np.prod([len(p["values"]) for p in sweep["parameters"].values()]))
    assert f"Costs {number} runs" in text


@every_sweep
def test_it_conforms_to_the_server_s_schema(file):
    config = pytest.importorskip("sweeps.config.cfg", reason="pip install 'wandb[sweeps]' brings the server's schema")
    assert config.schema_violations_from_proposed_config(read(file)) == []


@every_sweep
def test_nothing_is_chosen_by_the_test_images(file):
    flags = rendered(file, {})
    assert float(flags[flags.index("--data.val_fraction") + 1]) > 0
    assert file.stem == "seeds_by_method" or flags[flags.index("--test_after_fit") + 1] == "false"


@every_sweep
def test_every_sampled_command_is_understood(file, repository):
    """By the real parser, all but training: each value arrives at its place, none undoes another."""
    for values in samples(file):
        verb, *flags = rendered(file, values)
        assert verb == "fit" and _mistake(verb, flags) is None
        settings = parse(verb, flags)
        config = settings.as_dict()
        overlay = values.pop("config", None)
        assert {name: at(config, name) for name in values} == values
        assert config["trainer"]["logger"]["class_path"].endswith("WandbLogger")
        if overlay:
            assert settings.name == f"coco_{Path(overlay).stem}"
            wanted = yaml.safe_load(Path(overlay).read_text())["model"]["classification_loss"]["class_path"]
            assert at(config, "model.classification_loss") == wanted


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # wandb 0.31 leaves a file open
@pytest.mark.parametrize("name", [pytest.param("seeds_by_method", marks=pytest.mark.slow), "temperature"])
def test_a_sampled_run_trains_and_records_its_values(name, repository, agent_environment, mlcl, monkeypatch):
    """With the agent's environment, in this process: W&B gets the values as the sweep calls them, and in our config."""
    file = REPOSITORY / "configs" / "sweeps" / f"{name}.yaml"
    values = {**next(samples(file)), "ema_decay": None, "log_images": 0}
    monkeypatch.setenv("WANDB_RUN_ID", "run456")
    chosen = Path("values.yaml")
    chosen.write_text(yaml.safe_dump({"wandb_version": 1, **{n: {"value": v} for n, v in values.items()}}))
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(chosen.absolute()))
    outcome = mlcl(*rendered(file, values), *tiny_data("COCO2014", repository / "tiny"), *TINY)
    assert outcome.status == 0, outcome.err
    wandb.teardown()  # its service writes the end of the file
    (folder,) = repository.glob("runs/*/version_0/wandb/offline-run-*")
    run, ours = read_run(folder), f"coco_{Path(values['config']).stem}" if "config" in values else "coco_pscl"
    assert (run.id, run.name, run.group) == ("run456", f"{ours}/version_0", ours) and run.exit_code == 0
    assert {name: run.config[name] for name in values} == values
    own = {name: value for name, value in values.items() if name != "config"}
    assert {name: at(run.config, name) for name in own} == own
    assert [row["val/mAP"] for row in run.history if "val/mAP" in row], "what the server compares"


FORMS = [
    ("model.init_from", None, None),
    ("model.embedding_loss", None, None),
    ("ema_decay", None, None),
    ("model.compile", True, True),
    ("data.batch_size", 8, 8),
    ("model.optimizer.lr", 1e-05, 1e-05),
    ("model.optimizer.betas", [0.9, 0.99], [0.9, 0.99]),
    ("model.lr_mult", {"backbone": 1e-05}, {"backbone": 1e-05}),
    ("model.network.backbone_kwargs", {"a": None, "b": "None"}, {"a": None, "b": "None"}),
    ("model.network.head", {"class_path": "QueryDecoder", "init_args": {"ffn": None, "dim": 64}}, "QueryDecoder"),
    ("model.schedule", "Constant", "Constant"),
    ("data.augment", "none", "none"),
]


def test_values_as_w_and_b_writes_them(mlcl):
    flags = create_sweep_command_args({"args": {key: {"value": value} for key, value, _ in FORMS}})["args"]
    outcome = mlcl("fit", *PSCL, *flags, "--print_config")
    assert outcome.status == 0, outcome.err
    config = yaml.safe_load(outcome.out)
    assert {key: at(config, key) for key, *_ in FORMS} == {key: read for key, _, read in FORMS}


def test_none_stays_text_where_it_may_be_text(mlcl):
    arguments = [
        "--a",
        "None",
        "--b=None",
        "--c=['None', None]",
        "--d=Nones",
        "--e=[None, x]",
        "a=None",
        "--f={b: None}",
    ]
    assert [_with_null(argument) for argument in arguments] == [
        *("--a", "None", "--b=null", '--c=["None", null]', "--d=Nones", "--e=[None, x]", "a=None", "--f={b: None}"),
    ]
    outcome = mlcl("fit", *BASE, "--data", "CSVDataset", "--data.labels_column", "None", "--print_config")
    assert at(yaml.safe_load(outcome.out), "data.labels_column") == "None"


def test_no_name_is_the_configs_name(repository):
    assert CommandLine(["--config", "configs/coco.yaml", "--name=None"]).name() == "coco"


MISTAKES = [
    ("model.optimizer.lr", None, "--model.optimizer.lr: null is not possible here"),
    ("model.embedding_loss.temperature", None, "--model.embedding_loss.temperature: null is not possible here"),
    ("data.batch_size", 8.0, "expected an integer, got '8.0'; write 8 (in a sweep: int_uniform or values)"),
    ("data.batch_size", 8.5, "--data.batch_size: expected an integer, got '8.5'"),
    ("model.compile", 1, "--model.compile: expected true or false, got '1'"),
    ("model.embedding_loss.margin", 1.0, "unknown option, or one of another class (DiscriminativeLoss)"),
    ("config", "configs/methods/nope.yaml", "--config configs/methods/nope.yaml: no such file"),
    ("config", None, "--config None: no such file"),
]


@pytest.mark.parametrize(("key", "value", "words"), MISTAKES, ids=str)
def test_a_wrong_value_is_one_line(mlcl, key, value, words):
    flags = create_sweep_command_args({"args": {key: {"value": value}}})["args"]
    outcome = mlcl("fit", *PSCL, *flags)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert outcome.err.startswith("mlcl: ") and words in outcome.err
    assert not list(Path().glob("runs/*/*"))


@pytest.mark.slow
def test_the_loop_of_the_docs(repository, mlcl, demo_root):
    """The commands that the shell makes of it are understood; one seed of each method is trained, then compared."""
    (loop,) = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "docs" / "tracking.md").read_text(), re.DOTALL)
    shown = subprocess.run(
        ["bash", "-euc", f"mlcl() {{ printf '%q ' \"$@\"; echo; }}\n{loop}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    *trainings, comparison = [shlex.split(line) for line in shown.splitlines()]
    assert len(trainings) == 6 and comparison[0] == "compare"
    small = ["--data.root", str(demo_root), "--data.train_images", "80", "--data.test_images", "25"]
    small += ["--data.scene_size", "64", *TINY]
    for verb, *words in trainings:
        settings = parse(verb, words)
        assert f"runs/{settings.name}" in comparison
        if settings.config.seed_everything == 0:
            assert mlcl(verb, *words, *small).status == 0
    outcome = mlcl(*comparison)
    assert outcome.status == 0 and all(Path(name).name in outcome.out for name in comparison[1:]), outcome.err
