"""What others hand us (names, configs, checkpoints) runs no code and harms no reader."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY

from mlcl.callbacks.results import _per_class
from mlcl.errors import cell
from mlcl.metrics import MultiLabelMetrics
from mlcl.writers import CSVWriter, Row

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_csv_is_a_formula(text, tmp_path):
    writer = CSVWriter(tmp_path / "p.csv", [text, "cat"])
    writer.write(Row(text, [text, "cat"], [0.9, 0.2]))
    writer.finish(0)
    metrics = MultiLabelMetrics(num_classes=2)
    metrics.update(torch.randn(4, 2), torch.randint(0, 2, (4, 2)))
    metrics.compute()
    (tmp_path / "c.csv").write_text(_per_class(metrics.evaluation, [text, "cat"], torch.zeros(2)), newline="")
    for name in ("p.csv", "c.csv"):
        with (tmp_path / name).open(newline="") as file:
            rows = list(csv.reader(file))
        texts = [value for row in rows for value in row]
        assert ("\\r=1" if text == "\r=1" else f"'{text}") in texts
        assert "cat" in texts
        assert not [value for value in texts if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]


def test_numbers_and_ordinary_names_stay_as_they_are():
    assert [cell(text) for text in ("dining table", "a=b", "val2014/1.jpg", "")] == [
        "dining table", "a=b", "val2014/1.jpg", "",
    ]  # fmt: skip


PROCESS = {"class_path": "subprocess.Popen", "init_args": {"args": "touch pwned"}}
SHELL = {"class_path": "os.system", "init_args": {"command": "touch pwned"}}
ATTACKS = {
    "yaml tag": "!!python/object/apply:os.system ['touch pwned']",
    "yaml name": "!!python/name:os.system",
    "a process for a logger": {"trainer": {"logger": PROCESS}},
    "a process for a callback": {"trainer": {"callbacks": [PROCESS]}},
    "a process for a loss": {"model": {"classification_loss": PROCESS}},
    "a process for an optimizer": {"model": {"optimizer": PROCESS}},
    "a process for a dataset": {"data": PROCESS},
    "a shell for a schedule": {"model": {"schedule": SHELL}},
    "a shell as a value": {"model": {"optimizer": "os.system"}},
    "a command in a path": {"ckpt_path": "$(touch pwned)`touch pwned`"},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_config_runs_no_command(mlcl, attack, demo):
    content = ATTACKS[attack]
    text = f"model:\n  init_from: {content}\n" if isinstance(content, str) else yaml.safe_dump(content)
    Path("evil.yaml").write_text(text)
    result = mlcl("fit", "--config", str(REPOSITORY / "configs" / "demo.yaml"), "--config", "evil.yaml")
    assert result.status in (1, 2)
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1, result.err
    assert result.err.startswith("mlcl: ")
    assert not Path("pwned").exists()
