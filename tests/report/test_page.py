"""The report of a real run: what the page holds, and what it does without."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from support.hostile import ALERT, RUN

from mlcl.errors import MlclError
from mlcl.report import findings, locate, page
from mlcl.report.views import views
from mlcl.runs import folders, record
from mlcl.runs.results import read


@pytest.fixture
def copy(hostile_run, tmp_path, monkeypatch):
    """The run in a folder of its own, to be damaged."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(hostile_run / "runs" / RUN / "version_0", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def data(hostile_run, tmp_path):
    """The images in a folder of their own, to be damaged."""
    shutil.copytree(hostile_run / "data", tmp_path / "images")
    return tmp_path / "images"


def test_the_file_stands_alone(hostile_report):
    text = hostile_report.read_text(encoding="utf-8")
    assert hostile_report.name == "report.html"
    for markup in ("://", ALERT, "<img src=x", "<b onclick"):
        assert markup not in text
    assert text.count("data:image/jpeg") > 8
    assert text.count('class="attention"') > 8
    for section in ("metrics", "classes", "class", "reliability", "embeddings", "training"):
        assert f'<h2 id="{section}">' in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_numbers_on_the_page_are_those_of_the_files(hostile_report):
    text = hostile_report.read_text(encoding="utf-8")
    metrics = json.loads((hostile_report.parent / "metrics.json").read_text())
    for name in ("mAP", "CF1", "OF1"):
        assert f"<dt>{name} %</dt><dd>{100 * metrics['metrics'][name]:.2f}</dd>" in text
    results = read(hostile_report.parent)
    positive = results.targets == 1
    hits = (results.predicted & positive).sum(0)
    rows = re.findall(r'<tr><th scope="row" data-value=.*?</tr>', text)
    assert len(rows) == 4
    for k, row in enumerate(rows):
        present, predicted = positive[:, k].sum(), results.predicted[:, k].sum()
        shares = (hits[k] / max(predicted, 1), hits[k] / present, 2 * hits[k] / (predicted + present))
        numbers = [str(present), str(predicted), *(f"{100 * value:.1f}" for value in shares), "0.400"]
        assert re.findall(r'<td data-value="([^"]*)">', row) == [f"{100 * results.class_ap[k]:.1f}", *numbers]


def test_results_are_found_in_a_run_in_a_test_of_it_and_in_a_folder_of_runs(hostile_run, tmp_path):
    run = hostile_run / "runs" / RUN
    assert locate.results_in(run) == locate.results_in(run / "version_0") == run / "version_0"
    (tmp_path / "test_0").mkdir()
    (tmp_path / "test_0" / "scores.npz").touch()
    assert locate.results_in(tmp_path) == tmp_path / "test_0"


@pytest.mark.slow
def test_without_checkpoint_the_pictures_stay(mlcl, copy, hostile_run):
    summary = json.loads((copy / "metrics.json").read_text())
    shutil.rmtree(copy / "checkpoints")
    (copy / "metrics.json").write_text(json.dumps(summary | {"checkpoint": "gone.ckpt"}))
    outcome = mlcl("report", "run", "--data.root", hostile_run / "data")
    assert outcome.status == 0
    assert "report: no attention maps and no embeddings: the checkpoint is gone (gone.ckpt)" in outcome.err
    assert re.search(r"report: \S+report.html \([\d.]+ MB\)", outcome.err)
    text = (copy / "report.html").read_text()
    assert "No attention maps and no embeddings: the checkpoint is gone" in text
    assert "data:image/jpeg" in text
    assert 'class="attention"' not in text


def test_a_checkpoint_with_other_classes_is_not_used(copy):
    results = dict(np.load(copy / "scores.npz"))
    np.savez_compressed(copy / "scores.npz", **{**results, "classes": results["classes"][::-1]})
    (note,) = findings.gather(copy).evidence.notes
    assert "other classes" in note


def test_without_pictures_and_log_the_numbers_of_the_weakest_classes_stay(copy, monkeypatch):
    monkeypatch.setattr(findings, "_MOST_CLASSES", 2)
    (copy / "metrics.csv").unlink()
    text = page.write(copy, copy / "a" / "b.html", str(copy)).read_text()
    assert "No pictures: the images are not there under" in text
    for missing in ("data:image/jpeg", 'id="training"', 'id="embeddings"', 'class="attention"'):
        assert missing not in text
    assert text.count('<section class="class"') == 2
    assert "The 2 classes with the lowest AP of 4." in text
    assert len(re.findall(r'<tr><th scope="row" data-value=', text)) == 4


def test_labels_to_look_at_are_those_of_the_list(copy):
    """Which knows what was trained on; the scores alone do not."""
    found = findings.gather(copy, max_images=0)
    table = list(csv.reader((copy / "label_issues.csv").read_text(encoding="utf-8").splitlines()))
    names = found.results.images.tolist()
    assert len(table) > 3
    for label, shown in found.doubtful.items():
        listed = [(line[1].removeprefix("'"), float(line[4])) for line in table[1:] if line[3] == label][:8]
        assert [(names[row], doubt) for row, _, doubt in shown] == listed
    with (copy / "label_issues.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([table[0], table[3], ["train", "of another split", *table[1][2:]]])
    rest = [name for shown in findings.gather(copy, max_images=0).doubtful.values() for name in shown]
    assert [names[row] for row, *_ in rest] == [table[3][1].removeprefix("'")]
    (copy / "label_issues.csv").write_text("split,image,class,label,doubt\ntest,gone.png,cat,present,0.9\n")
    with pytest.raises(MlclError, match="its results cannot be read"):
        findings.gather(copy)


def test_pictures_that_are_gone_or_damaged_cost_only_themselves(copy, data, hostile_report):
    whole = hostile_report.read_text()
    gone, damaged = list(dict.fromkeys(re.findall(r"<br>(\d+\.png)</figcaption>", whole)))[:2]
    (data / gone).unlink()
    (data / damaged).write_bytes(b"not a picture")
    text = page.write(copy, data_root=str(data)).read_text()
    assert "1 of 24 images are not there" in text
    assert gone not in text and damaged not in text
    assert 0 < text.count("</figcaption>") < whole.count("</figcaption>")
    assert text.count('class="attention"') > 0.7 * whole.count('class="attention"')
    assert '<h2 id="embeddings">' in text


def test_old_or_foreign_results_are_refused_in_one_line(copy):
    (copy / "scores.npz").write_bytes(b"nothing")
    with pytest.raises(MlclError, match="run mlcl test again"):
        page.write(copy)
    (copy / "scores.npz").unlink()
    with pytest.raises(MlclError, match=r"no scores\.npz in this folder"):
        page.write(copy)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "no scores.npz"),
        (["run", "--output", "run"], "--output run is a folder"),
        (["run", "--data.root", "no"], "--data.root no: no such folder"),
        (["run", "--max_images", "-3"], "--max_images"),
        ([], "RUN"),
    ],
)
def test_mistakes_cost_one_line(mlcl, tmp_path, arguments, named):
    (tmp_path / "run").mkdir()
    if arguments != ["."]:
        (tmp_path / "run" / "scores.npz").touch()
    outcome = mlcl("report", *arguments)
    assert outcome.status == 2
    assert named in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
def test_a_test_writes_it_too_and_finds_data_that_has_moved(mlcl, trained, demo_root, tmp_path, monkeypatch):
    """The checkpoint names a folder that is gone; --data.root says where the images are now."""
    monkeypatch.setattr(findings, "_MOST_CLASSES", 2)
    content = record.load(folders.best_checkpoint(trained))
    content[record.KEY]["config"] = content[record.KEY]["config"].replace(str(demo_root), str(tmp_path / "gone"))
    torch.save(content, tmp_path / "moved.ckpt")
    flags = ["--data.root", demo_root, "--trainer.accelerator", "cpu", "--report", "true"]
    outcome = mlcl("test", "--ckpt_path", "moved.ckpt", *flags)
    assert outcome.status == 0 and "report: " in outcome.err and "no pictures" not in outcome.err
    (report,) = tmp_path.rglob("report.html")
    assert (report.parent / "scores.npz").is_file() and "data:image/jpeg" in report.read_text()
    assert not (trained / "report.html").exists()  # no report unless it is wanted


def test_characters_that_no_page_and_no_logger_may_hold(copy, monkeypatch):
    monkeypatch.setattr(findings, "_MOST_CLASSES", 1)
    odd = ["a\x01\x1b", "b\x0b\uffff", "c\ud800", "d\udcff\x9f"]
    results = dict(np.load(copy / "scores.npz"))
    np.savez_compressed(copy / "scores.npz", **{**results, "classes": np.array(odd)})
    (copy / "label_issues.csv").unlink()  # of the names before
    text = page.write(copy, max_images=0).read_text(encoding="utf-8")
    shown = views(findings.gather(copy, max_images=0))
    captions = [picture.caption for pictures in shown.pictures.values() for picture in pictures]
    cells = [cell for table in (*shown.tables.values(), shown.curves) for row in table.rows for cell in row]
    assert "\ufffd" in "".join(captions)
    for part in (text, *captions, *(cell for cell in cells if isinstance(cell, str))):
        assert not re.search("[\x00-\x08\x0b\x1b\ud800-\udfff\uffff]", part)
