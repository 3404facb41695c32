"""The curves in a run's metrics.csv."""

import csv

import pytest
from support.hostile import RUN

from mlcl.report.training_log import training_log


def test_the_log_of_the_run_is_read_over_epochs(hostile_run):
    run = hostile_run / "runs" / RUN / "version_0"
    log = training_log(run / "test_0")  # a later test of the run
    assert log.xlabel == "epoch"
    x, y = log.metrics["val/mAP"]
    assert x.tolist() == [1, 2, 3]
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert y.tolist() == [100 * float(row["val/mAP"]) for row in rows if row["val/mAP"]]
    assert log.metrics.keys() == {"val/mAP", "val/CF1", "val/OF1"}
    assert {"train/classification", "val/classification"} <= {*log.losses}
    x, _ = next(iter(log.rates.values()))
    assert (x > 0).all() and (x <= 3).all()


def test_a_log_without_epochs_or_lines(tmp_path):
    assert training_log(tmp_path) is None
    (tmp_path / "metrics.csv").write_text("step,train/loss,lr-a,lr-b\n9,2.5,1,1\n19,,0.5,0.5\n29,1.5,,\n")
    log = training_log(tmp_path)
    assert log.xlabel == "step"
    assert {name: (x.tolist(), y.tolist()) for name, (x, y) in log.losses.items()} == {
        "train/loss": ([9, 29], [2.5, 1.5])
    }
    assert list(log.rates) == ["lr-a"]  # the other one repeats it
    (tmp_path / "metrics.csv").write_text("")
    assert training_log(tmp_path) is None


@pytest.mark.parametrize("content", [b"step,train/loss\n1,2,3\n4,5\n", b"step,train/loss\n1,x\n", b"\xff\xfe\x00"])
def test_a_damaged_file_is_none(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    assert training_log(tmp_path) is None
