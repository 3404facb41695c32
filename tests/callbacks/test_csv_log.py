"""The log of a continued run keeps its lines."""

import csv
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from mlcl.callbacks import CSVLog


def write(logger, step: int, **values: float) -> None:
    logger.log_metrics(values, step)
    logger.save()


def read(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_lines_are_kept_and_new_columns_added(tmp_path: Path):
    write(CSVLog(str(tmp_path)), 0, loss=1.0)
    second = CSVLog(str(tmp_path))
    write(second, 1, loss=0.5, mAP=0.3)
    write(second, 2, loss=0.4)
    assert [(row["step"], row["loss"], row["mAP"]) for row in read(tmp_path)] == [
        ("0", "1.0", ""),
        ("1", "0.5", "0.3"),
        ("2", "0.4", ""),
    ]


@pytest.mark.upstream
@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_trap_lightning_deletes_the_lines_of_a_continued_run(tmp_path: Path):
    """Lightning 2.6.6; when this fails, our logger can go."""
    for step in (0, 1):
        write(CSVLogger(tmp_path, name="", version=""), step, loss=1.0)
    assert [row["step"] for row in read(tmp_path)] == ["1"]
