"""Every YAML under configs/ parses, prints itself as valid input, and runs a step on tiny data."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from support.own_classes import STOPPER
from support.running import REPOSITORY, tiny_data

CONFIGS = sorted(REPOSITORY.glob("configs/*.yaml"))
METHODS = sorted(REPOSITORY.glob("configs/methods/*.yaml"))
RECIPES = sorted(REPOSITORY.glob("configs/recipes/*.yaml"))
CONTINUED = ("mulcon", "sadcl")  # a projector; a bank and prototypes
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
TINY = [
    *("--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"),  # nothing to download
    *("--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
]
FEW = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]


def test_there_are_configs():
    assert {path.stem for path in CONFIGS} >= {"coco", "nuswide", "vg500", "voc2007", "voc2012", "demo"}


@every_config
def test_printed_config_is_valid_input_and_a_fixed_point(mlcl, config):
    first = mlcl("fit", "--config", config, "--print_config")
    assert first.status == 0, first.err
    Path("again.yaml").write_text(first.out)
    second = mlcl("fit", "--config", "again.yaml", "--print_config")
    assert (second.status, second.err) == (0, "")
    assert yaml.safe_load(second.out) == yaml.safe_load(first.out)


def train_a_step(mlcl, config: Path, tmp_path: Path) -> Path:
    """A training and a test on tiny data; the folder of the run."""
    data = tiny_data(yaml.safe_load(config.read_text())["data"]["class_path"], tmp_path / "tiny")
    outcome = mlcl("fit", "--config", config, *data, *TINY)
    assert outcome.status == 0, outcome.err
    assert "Warning" not in outcome.err and "results in" in outcome.out
    return tmp_path / "runs" / config.stem / "version_0"


@pytest.mark.parametrize(
    "config",
    [pytest.param(c, id=c.stem, marks=[pytest.mark.slow] * (c.stem in ("demo", "vg500", "voc2007"))) for c in CONFIGS],
)
def test_it_trains_and_tests_a_step_and_its_saved_config_says_the_same(mlcl, config, tmp_path: Path):
    run = train_a_step(mlcl, config, tmp_path)
    measured = json.loads((run / "metrics.json").read_text())
    assert measured["N"] > 0 and measured["metrics"]["mAP"] is not None
    again = mlcl("fit", "--config", run / "config.yaml", "--print_config")
    saved, printed = yaml.safe_load((run / "config.yaml").read_text()), yaml.safe_load(again.out)
    assert again.status == 0 and {key: printed[key] for key in saved} == saved


@pytest.mark.slow  # one config that is repeated in the normal suite: robustness/test_reproducible.py
@every_config
def test_its_saved_config_repeats_the_run(mlcl, config, tmp_path: Path):
    run = train_a_step(mlcl, config, tmp_path)
    outcome = mlcl("fit", "--config", run / "config.yaml")
    assert outcome.status == 0 and "Warning" not in outcome.err, outcome.err
    first, second = (json.loads((run.with_name(f"version_{n}") / "metrics.json").read_text()) for n in (0, 1))
    assert first["metrics"] == second["metrics"]


def narrow(*files: Path) -> list[str]:
    """Flags for a width that a test can afford, as far as these overlays have one."""
    layers = [yaml.safe_load(file.read_text()).get("model", {}) for file in files]
    head, loss = {}, {}
    for layer in layers:
        head = layer.get("network", {}).get("init_args", {}).get("head", head)
        loss = layer.get("embedding_loss", loss)
    flags = ["--model.network.head.dim", "16"] if "dim" in head.get("init_args", {}) else []
    flags += ["--model.network.head.ffn", "32"] if "ffn" in head.get("init_args", {}) else []
    projected = (loss or {}).get("init_args", {}).get("projection") or (loss or {}).get("init_args", {}).get("bank")
    return flags + (["--model.embedding_loss.projection", "8"] if projected else [])


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, id=m.stem, marks=[pytest.mark.slow] * (n % 2)) for n, m in enumerate(METHODS)],
)
def test_every_method_combines_with_the_datasets(mlcl, method):
    """And says all that it relies on: over another method's overlay the same comes out. The datasets take turns."""
    config = CONFIGS[METHODS.index(method) % len(CONFIGS)]
    alone = mlcl("fit", "--config", config, "--config", method, "--print_config")
    assert alone.status == 0, alone.err
    before = REPOSITORY / "configs" / "methods" / "sadcl.yaml"
    over = mlcl("fit", "--config", config, "--config", before, "--config", method, "--print_config")
    assert over.status == 0, over.err
    a, b = (yaml.safe_load(outcome.out) for outcome in (alone, over))
    stated = yaml.safe_load(method.read_text())
    for key in {"classification_loss", "embedding_loss", "embedding_weight", "embedding_start", "embedding_ramp"}:
        assert key not in stated["model"] or a["model"][key] == b["model"][key], key
    if "network" in stated["model"]:
        heads = [c["model"]["network"]["init_args"]["head"] for c in (a, b)]
        inferred = "dim" not in stated["model"]["network"]["init_args"]["head"]["init_args"]
        for head in heads if inferred else ():
            head["init_args"].pop("dim", None)  # the dataset config's
        assert heads[0] == heads[1]
    if "data" in stated:
        assert a["data"]["init_args"]["views"] == b["data"]["init_args"]["views"]


def method_flags(mlcl, demo: list[str], method: Path) -> list[str]:
    """Flags of a short training by this method; its first stage, if it needs one, is trained here."""
    text = method.read_text()
    flags = [*demo, "--config", str(method), *narrow(method), "--test_after_fit", "false"]
    if "embedding_start" in text:
        flags += ["--model.embedding_start", "0", "--model.embedding_ramp", "1"]
    if "init_from" in text:
        first = method.with_name(f"{method.stem}_stage1.yaml")
        first = first if first.exists() else method.with_name("bce.yaml")
        stage = [*demo, "--config", first, *narrow(first), *FEW]
        stage += ["--test_after_fit", "false", "--trainer.max_epochs", "1"]
        started = mlcl("fit", *stage, "--name", "first")
        assert started.status == 0, started.err
        flags += ["--model.init_from", "runs/first"]
    return flags


TRAINED_ELSEWHERE = ("asl", "bce", "frozen")  # by commands of README, and as a first stage below


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, id=m.stem, marks=[pytest.mark.slow] * (m.stem in TRAINED_ELSEWHERE)) for m in METHODS],
)
def test_every_method_trains(mlcl, demo, method):
    outcome = mlcl("fit", *method_flags(mlcl, demo, method), "--trainer.max_epochs", "1", *FEW)
    assert outcome.status == 0, outcome.err
    if method.stem in CONTINUED:  # from a first stage
        assert "0 of the file not used" in outcome.err and "as initialised" not in outcome.err.split("prototypes")[0]


@pytest.mark.slow  # of a training with all that SADCL keeps, in the normal suite: robustness/test_interrupted.py
@pytest.mark.parametrize("method", [m for m in METHODS if m.stem in CONTINUED], ids=lambda path: path.stem)
def test_a_method_with_a_state_goes_on_where_it_stopped(mlcl, demo, method, tmp_path: Path):
    """One epoch and one more equal two, bit for bit, bank and prototypes too; both stages where there are two."""
    (tmp_path / "stop.py").write_text(STOPPER)
    common = [*method_flags(mlcl, demo, method), "--trainer.max_epochs", "2"]
    if "bank:" in method.read_text():
        common += ["--model.embedding_loss.confidence", "0.05"]
    whole = mlcl("fit", *common, "--name", "whole")
    assert whole.status == 0, whole.err
    if "init_from" in method.read_text():
        assert "0 of the file not used" in whole.err and "as initialised" not in whole.err.split("prototypes")[0]
    half = mlcl(
        "fit", *common, "--name", "half", "--trainer.callbacks+", "stop.StopAfter", "--trainer.callbacks.epochs", "1"
    )
    assert half.status == 0, half.err
    rest = mlcl("fit", *common, "--name", "half", "--ckpt_path", "last")
    assert rest.status == 0, rest.err
    a, b = (torch.load(f"runs/{n}/version_0/checkpoints/last.ckpt", weights_only=True) for n in ("whole", "half"))
    for part in ("state_dict", "current_model_state"):  # the moving average, and the raw weights
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    if method.stem == "sadcl":
        assert a["current_model_state"]["embedding_loss.bank.written"].sum() > 12
    rows = [Path(f"runs/{name}/version_0/metrics.csv").read_text().splitlines() for name in ("whole", "half")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("method", [pytest.param("mulcon", marks=pytest.mark.slow), "sadcl"])
def test_the_control_differs_in_the_contrastive_loss_only(mlcl, method):
    folder = REPOSITORY / "configs"
    stage = ["--config", folder / "coco.yaml"]
    for layers in ([folder / "methods"], [folder / "methods", folder / "recipes"]):
        second = [*stage, *(part for layer in layers for part in ("--config", layer / f"{method}.yaml"))]
        control = [*second, "--config", folder / "methods" / "stage2_control.yaml"]
        a, b = (yaml.safe_load(mlcl("fit", *flags, "--print_config").out) for flags in (second, control))
        assert a["model"].pop("embedding_loss") and not b["model"].pop("embedding_loss")
        assert a == b


@pytest.mark.parametrize("config", ["nuswide", pytest.param("vg500", marks=pytest.mark.slow)])
def test_the_methods_of_the_papers_lie_over_their_datasets(mlcl, config):
    """MulCon and SADCL report on both; the size of the pictures and the dataset stay the config's own."""
    folder = REPOSITORY / "configs"
    own = yaml.safe_load((folder / f"{config}.yaml").read_text())["data"]
    for method in ("mulcon_stage1", "mulcon", "sadcl_stage1", "sadcl"):
        layers = [
            folder / f"{config}.yaml",
            folder / "methods" / f"{method}.yaml",
            folder / "recipes" / f"{method}.yaml",
        ]
        outcome = mlcl("fit", *(part for layer in layers for part in ("--config", layer)), "--print_config")
        assert outcome.status == 0, outcome.err
        data = yaml.safe_load(outcome.out)["data"]
        assert data["class_path"].rpartition(".")[2] == own["class_path"]
        assert data["init_args"]["image_size"] == own["init_args"]["image_size"]


@pytest.mark.parametrize("recipe", [pytest.param(r, id=r.stem, marks=[pytest.mark.slow] * (r.stem != "sadcl"))
                                    for r in RECIPES])  # fmt: skip
def test_every_recipe_runs_over_its_method(mlcl, recipe, tmp_path: Path):
    data = tiny_data("COCO2014", tmp_path / "tiny")
    method, config = REPOSITORY / "configs" / "methods" / recipe.name, REPOSITORY / "configs" / "coco.yaml"
    layers = [part for file in (config, method, recipe) for part in ("--config", file)]
    outcome = mlcl("fit", *layers, *data, *TINY, *narrow(method, recipe), "--trainer.precision", "32-true")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "runs" / f"coco_{recipe.stem}_recipe" / "version_0" / "metrics.json").is_file()


@pytest.mark.parametrize("config", [*CONFIGS, *METHODS, *RECIPES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_it_begins_with_what_it_is_for(config):
    assert config.read_text().startswith("# ")
    assert "shared" not in config.read_text()
