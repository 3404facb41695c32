"""Every YAML under configs/ parses, prints itself as valid input, and runs a step on tiny data."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, tiny_data

CONFIGS = sorted(REPOSITORY.glob("configs/*.yaml"))
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
TINY = [
    *("--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"),  # nothing to download
    *("--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
]


def test_there_are_configs():
    assert {path.stem for path in CONFIGS} >= {"coco", "voc2007", "voc2012", "demo"}


@every_config
def test_printed_config_is_valid_input_and_a_fixed_point(mlcl, config):
    first = mlcl("fit", "--config", config, "--print_config")
    assert first.status == 0, first.err
    Path("again.yaml").write_text(first.out)
    second = mlcl("fit", "--config", "again.yaml", "--print_config")
    assert (second.status, second.err) == (0, "")
    assert yaml.safe_load(second.out) == yaml.safe_load(first.out)


@every_config
def test_it_trains_and_tests_a_step(mlcl, config, tmp_path: Path):
    data = tiny_data(yaml.safe_load(config.read_text())["data"]["class_path"], tmp_path / "tiny")
    outcome = mlcl("fit", "--config", config, *data, *TINY)
    assert outcome.status == 0, outcome.err
    assert "Warning" not in outcome.err
    summary = json.loads((tmp_path / "runs" / config.stem / "version_0" / "metrics.json").read_text())
    assert summary["N"] > 0 and summary["metrics"]["mAP"] is not None
    assert "results in" in outcome.out


@every_config
def test_the_saved_config_repeats_the_run(mlcl, config, tmp_path: Path):
    data = tiny_data(yaml.safe_load(config.read_text())["data"]["class_path"], tmp_path / "tiny")
    assert mlcl("fit", "--config", config, *data, *TINY).status == 0
    folder = tmp_path / "runs" / config.stem
    outcome = mlcl("fit", "--config", folder / "version_0" / "config.yaml")
    assert outcome.status == 0, outcome.err
    first, second = (json.loads((folder / f"version_{n}" / "metrics.json").read_text()) for n in (0, 1))
    assert first["metrics"] == second["metrics"]


@every_config
def test_it_says_what_every_choice_is_for(config):
    assert config.read_text().startswith("# ")
    assert "shared" not in config.read_text()
