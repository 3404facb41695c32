"""The report of a real run: what it is read from, what the file holds, and what it does without."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hostile import ALERT, RUN

from mlcl import analysis
from mlcl.errors import MlclError
from mlcl.report import locate, page
from mlcl.report.results import read, training_log


@pytest.fixture
def copy(hostile_run, tmp_path, monkeypatch):
    """The run in a folder of its own, to be damaged."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(hostile_run / "runs" / RUN / "version_0", tmp_path / "run")
    return tmp_path / "run"


def test_the_file_stands_alone(hostile_report):
    text = hostile_report.read_text(encoding="utf-8")
    assert hostile_report.name == "report.html"
    assert "://" not in text
    assert ALERT not in text
    assert "<img src=x" not in text
    assert "<b onclick" not in text
    assert text.count("data:image/jpeg") > 8
    assert text.count('class="attention"') > 8


def test_the_numbers_on_the_page_are_those_of_the_files(hostile_report):
    text = hostile_report.read_text(encoding="utf-8")
    metrics = json.loads((hostile_report.parent / "metrics.json").read_text())
    for name in ("mAP", "CF1", "OF1"):
        assert f"<dt>{name} %</dt><dd>{100 * metrics['metrics'][name]:.2f}</dd>" in text
    results = read(hostile_report.parent)
    table = analysis.decisions(results.probabilities, results.targets, results.thresholds)
    rows = re.findall(r'<tr><th scope="row" data-value=.*?</tr>', text)
    assert len(rows) == 4
    for k, row in enumerate(rows):
        cells = re.findall(r'<td data-value="([^"]*)">', row)
        shares = [f"{100 * value:.1f}" for value in (table.precision[k], table.recall[k], table.f1[k])]
        ap = f"{100 * results.class_ap[k]:.1f}"
        assert cells == [ap, str(table.positives[k]), str(table.predicted[k]), *shares, "0.400"]


def test_results_are_found_where_they_may_lie(hostile_run, copy):
    run = hostile_run / "runs" / RUN
    assert locate.results_in(run) == run / "version_0"
    assert locate.results_in(run / "version_0") == run / "version_0"
    later = copy / "test_0"
    later.mkdir()
    for name in ("scores.npz", "metrics.json", "per_class.csv"):
        (copy / name).rename(later / name)
    assert locate.results_in(copy) == later
    assert training_log(later).metrics.keys() == {"val/mAP", "val/CF1", "val/OF1"}  # of the run above it


def test_the_log_is_read_over_epochs(copy):
    log = training_log(copy)
    assert log.xlabel == "epoch"
    x, y = log.metrics["val/mAP"]
    assert x.tolist() == [1, 2, 3]
    rows = list(csv.DictReader((copy / "metrics.csv").read_text().splitlines()))
    assert y.tolist() == [100 * float(row["val/mAP"]) for row in rows if row["val/mAP"]]
    assert {"train/classification", "val/classification"} <= {*log.losses}
    x, _ = next(iter(log.rates.values()))
    assert (x > 0).all()
    assert (x <= 3).all()


def test_a_log_without_epochs_or_lines(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss,lr-a,lr-b\n9,2.5,1,1\n19,,0.5,0.5\n29,1.5,,\n")
    log = training_log(tmp_path)
    assert log.xlabel == "step"
    assert {name: (x.tolist(), y.tolist()) for name, (x, y) in log.losses.items()} == {
        "train/loss": ([9, 29], [2.5, 1.5])
    }
    assert list(log.rates) == ["lr-a"]  # the other one repeats it
    (tmp_path / "metrics.csv").write_text("")
    assert not training_log(tmp_path).losses


def test_without_checkpoint_the_pictures_stay(copy, hostile_run, capsys):
    summary = json.loads((copy / "metrics.json").read_text())
    shutil.rmtree(copy / "checkpoints")
    (copy / "metrics.json").write_text(json.dumps(summary | {"checkpoint": "gone.ckpt"}))
    text = page.write(copy, data_root=str(hostile_run / "data")).read_text()
    said = capsys.readouterr().err
    assert "report: no attention maps and no embeddings: the checkpoint is gone (gone.ckpt)" in said
    assert re.search(r"report: \S+run.report\.html \([\d.]+ [kM]B\)", said)
    assert "No attention maps and no embeddings: the checkpoint is gone" in text
    assert "data:image/jpeg" in text
    assert 'class="attention"' not in text


def test_without_pictures_the_numbers_stay(copy, capsys):
    text = page.write(copy, data_root=str(copy)).read_text()
    assert "no pictures: the images are not there under" in capsys.readouterr().err
    assert "data:image/jpeg" not in text
    assert '<h2 id="training">' in text


def test_some_pictures_are_gone_and_the_network_is_left_out(copy, hostile_run, tmp_path):
    some = tmp_path / "some"
    shutil.copytree(hostile_run / "data", some)
    for n in range(40, 45):
        (some / f"{n}.png").unlink()
    (some / "46.png").write_bytes(b"not a picture")
    text = page.write(copy, tmp_path / "a" / "b.html", str(some), max_images=0).read_text()
    assert "5 of 24 images are not there" in text
    assert 'class="attention"' not in text
    assert '<h2 id="embeddings">' not in text


def test_a_broken_picture_costs_only_itself(copy, hostile_run, tmp_path):
    some = tmp_path / "some"
    shutil.copytree(hostile_run / "data", some)
    whole = page.write(copy, data_root=str(some)).read_text()
    shown = re.search(r"<br>(\d+\.png)</figcaption>", whole)[1]
    (some / shown).write_bytes(b"not a picture")
    text = page.write(copy, data_root=str(some)).read_text()
    assert shown not in text and 0 < text.count("</figcaption>") < whole.count("</figcaption>")
    assert text.count('class="attention"') > 0.7 * whole.count('class="attention"')
    assert '<h2 id="embeddings">' in text


def test_many_classes_show_the_weakest(copy, monkeypatch):
    monkeypatch.setattr(page, "_MOST_SECTIONS", 2)
    text = page.write(copy, max_images=0).read_text()
    assert text.count('<section class="class"') == 2
    assert "The 2 classes with the lowest AP of 4." in text
    assert len(re.findall(r'<tr><th scope="row" data-value=', text)) == 4


def test_a_head_with_one_embedding_for_all(mlcl, demo):
    head = ["--model.network.head", "GlobalPool", "--trainer.max_epochs", "1", "--name", "pool"]
    assert mlcl("fit", *demo, *head).status == 0
    outcome = mlcl("report", "runs/pool", "--max_images", "12")
    assert outcome.status == 0, outcome.err
    text = Path("runs/pool/version_0/report.html").read_text()
    assert "no attention maps: the head of this network has none" in outcome.err
    assert "This head has one embedding per image" in text


def test_old_or_foreign_results_are_refused_in_one_line(copy):
    arrays = dict(np.load(copy / "scores.npz"))
    del arrays["thresholds"]
    np.savez(copy / "scores.npz", **arrays)
    with pytest.raises(MlclError, match=r"scores\.npz has no thresholds \(an older mlcl's\?\); run mlcl test again"):
        page.write(copy)
    (copy / "scores.npz").write_bytes(b"nothing")
    with pytest.raises(MlclError, match="its results cannot be read"):
        page.write(copy)
    (copy / "per_class.csv").unlink()
    (copy / "scores.npz").unlink()
    with pytest.raises(MlclError, match=r"no scores\.npz in this folder"):
        page.write(copy)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], ".: no scores.npz in this folder or the runs in it; mlcl test writes one"),
        (["run", "--output", "run"], "--output run is a folder; give a file"),
        (["run", "--data.root", "no"], "--data.root no: no such folder"),
        (["run", "--max_images", "-3"], "--max_images"),
        ([], "RUN"),
    ],
)
def test_mistakes_cost_one_line(mlcl, tmp_path, arguments, said):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scores.npz").write_bytes(b"")
    if arguments == ["."]:
        (tmp_path / "run" / "scores.npz").unlink()
    outcome = mlcl("report", *arguments)
    assert outcome.status == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_test_writes_it_too(mlcl, trained, tmp_path):
    run = tmp_path / "runs" / "demo" / "version_0"
    shutil.copytree(trained, run)
    common = ["test", "--ckpt_path", run, "--trainer.accelerator", "cpu"]
    assert mlcl(*common).status == 0 and not (run / "test_0" / "report.html").exists()
    outcome = mlcl(*common, "--report", "true")
    assert outcome.status == 0 and "report: " in outcome.err
    assert "demo/version_0/test_1" in (run / "test_1" / "report.html").read_text()


def test_moved_data_is_known_to_the_report_of_a_test(mlcl, trained, demo_root, tmp_path):
    """The checkpoint names a folder that is gone; --data.root said where the images are now."""
    from mlcl import runs
    from mlcl.runs import record

    content = record.load(runs.best_checkpoint(trained))
    content[record.KEY]["config"] = content[record.KEY]["config"].replace(str(demo_root), str(tmp_path / "gone"))
    torch.save(content, tmp_path / "moved.ckpt")
    flags = ["--data.root", demo_root, "--trainer.accelerator", "cpu", "--report", "true"]
    outcome = mlcl("test", "--ckpt_path", "moved.ckpt", *flags)
    assert outcome.status == 0 and "no pictures" not in outcome.err
    assert "data:image/jpeg" in next(tmp_path.rglob("report.html")).read_text()


def test_characters_that_no_page_may_hold(copy):
    odd = ["a\x01\x1b", "b\x0b\uffff", "c\ud800", "d\udcff\x9f"]
    results = dict(np.load(copy / "scores.npz"))
    np.savez_compressed(copy / "scores.npz", **{**results, "classes": np.array(odd)})
    text = page.write(copy).read_text(encoding="utf-8")
    assert text.count("\ufffd") > 10 and not re.search("[\x00-\x08\x0b\x1b\ud800-\udfff\uffff]", text)


def test_a_damaged_log_costs_the_curves(copy):
    log = copy / "metrics.csv"
    whole = page.write(copy, max_images=0).read_text()
    for content in (b"\xff\xfe\x00", log.read_bytes() + b"1,2," + b"3," * 50 + b"4\n"):
        log.write_bytes(content)
        text = page.write(copy, max_images=0).read_text()
    assert '<h2 id="training">' in whole and '<h2 id="training">' in text
    log.write_bytes(b"\xff\xfe\x00")
    assert '<h2 id="training">' not in page.write(copy, max_images=0).read_text()
