"""mlcl ensemble: the mean by a slow loop, what is a member and what is refused, and two real runs to a report."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.saved_runs import compare, small_run

from mlcl.__main__ import main
from mlcl.metrics import MultiLabelMetrics
from mlcl.runs.results import read


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shaken(seed, unknown=True):
    """Other logits for the same labels, one of which is unknown."""

    def change(logits, targets):
        targets = targets.clone()
        targets[4, 1] = -1
        return logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)), targets

    return change


def test_it_is_the_mean_by_a_slow_loop(mlcl):
    """Of runs with a temperature and thresholds of their own, one of them with its images in another order."""
    thresholds = [0.1, 0.5, 1e-9], [0.7, 0.5, 1e-3]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    names = [f"images/{i:04}.jpg" for i in order.argsort().tolist()]
    variant = {"interpolation": "envelope", "cf1": "mean"}
    small_run("a/version_0", shaken(1), settings={"threshold": thresholds[0], "temperature": 2.0, **variant})
    small_run("b/version_0", shaken(2), order=order, names=names, settings={"threshold": thresholds[1], **variant})
    done = mlcl("ensemble", "runs/a", "runs/b", "--output", "runs/both")
    assert done.status == 0, done.err
    a, b, found = (read(Path("runs") / name) for name in ("a/version_0", "b/version_0", "both"))
    assert found.images.tolist() == a.images.tolist() != b.images.tolist() and (found.index == a.index).all()
    assert (found.targets == a.targets).all() and found.targets[4, 1] == -1 and found.temperature == 1
    row_in_b = {name: row for row, name in enumerate(b.images.tolist())}
    for row, name in enumerate(a.images.tolist()):
        for k in range(3):
            mean = (float(a.logits[row, k]) / 2 + float(b.logits[row_in_b[name], k])) / 2
            assert found.logits[row, k] == pytest.approx(mean, abs=1e-12)
    for k, (one, other) in enumerate(zip(*thresholds, strict=True)):
        odds = (math.log(one / (1 - one)) + math.log(other / (1 - other))) / 2
        assert found.thresholds[k] == pytest.approx(1 / (1 + math.exp(-odds)), rel=1e-12)
    assert found.thresholds[1] == 0.5
    metrics = MultiLabelMetrics(3, found.thresholds.tolist(), **variant)
    metrics.update(torch.from_numpy(found.logits), torch.from_numpy(found.targets))
    assert found.metrics == {name: value.item() for name, value in metrics.compute().items()}
    np.testing.assert_allclose(found.class_ap, metrics.evaluation.class_ap)
    assert found.definitions == metrics.definitions() and found.summary["unknown_entries"] == 1
    members = found.summary["members"]
    assert [member["folder"] for member in members] == ["runs/a/version_0", "runs/b/version_0"]
    for member, run in zip(members, (a, b), strict=True):
        assert member["mAP"] == run.metrics["mAP"] and f"{100 * run.metrics['mAP']:.2f}" in done.out
    assert f"{100 * found.metrics['mAP']:.2f}" in done.out and "AP: precision envelope" in done.out
    assert "results in runs/both" in done.out


def test_a_fixed_threshold_stays_what_it_is(mlcl):
    for name, threshold in (("a", 0.3), ("b", 0.3), ("c", 0.6), ("d", [0.0, 0.3, 0.3])):
        small_run(name, shaken(ord(name)), settings={"threshold": threshold})
    for names, kept in (("ab", 0.3), ("ac", 1 / (1 + math.sqrt(7 / 3 * 4 / 6)))):
        assert mlcl("ensemble", *(f"runs/{name}" for name in names), "--output", names).status == 0
        found = read(Path(names))
        assert found.definitions["threshold"] == pytest.approx(kept, rel=1e-12) and len({*found.thresholds}) == 1
    assert read(Path("ab")).thresholds.tolist() == [0.3] * 3
    assert mlcl("ensemble", "runs/a", "runs/d", "--output", "ad").status == 0
    assert read(Path("ad")).thresholds.tolist() == [0.0, 0.3, 0.3]  # of which one is always predicted
    small_run("e", shaken(5), settings={"threshold": [1.0, 0.3, 0.3]})
    done = mlcl("ensemble", "runs/d", "runs/e", "--output", "de")
    assert done.status == 1 and "the thresholds of class 0 are 0 and 1 in two runs" in done.err


def test_members_without_names_or_places(mlcl):
    small_run("a", shaken(1), names=[], order=range(7, 37))
    small_run("b", shaken(2), names=[], order=range(7, 37))
    assert mlcl("ensemble", "runs/a", "runs/b", "--output", "both").status == 0
    assert read(Path("both")).index.tolist() == [*range(7, 37)] and not len(read(Path("both")).images)


def test_what_is_refused(mlcl):
    for n in range(2):
        small_run(f"a/version_{n}", shaken(n))
    Path("runs/a/version_2").mkdir()
    small_run("b/version_0", shaken(7))
    shutil.copytree("runs/b/version_0", "runs/b/version_0/test_0")
    shutil.copytree("runs/b/version_0", "copy")
    small_run("c", lambda s, t: (s[:20], t[:20]))
    small_run("d", lambda s, t: (s, 1 - t))
    small_run("e", shaken(9), settings={"interpolation": "11point"})
    Path("file").touch()
    shutil.copytree("runs/a/version_0", "kept")
    for arguments, status, words in (
        (["runs/a/version_0"], 2, "an ensemble has two members or more, not 1"),
        (["runs/a", "runs/a/version_1"], 2, "runs/a/version_1 is given twice"),
        (["runs/a", "runs/b/version_0", "runs/b/version_0/test_0"], 2, "runs/b/version_0 is given twice, by "),
        (["runs/b", "copy"], 1, "runs/b/version_0 and copy hold the same scores"),
        (["runs/a", "runs/c"], 1, "are of other images: 10 only in the first"),
        (["runs/b", "runs/d"], 1, "have other labels for the same images"),
        (["runs/b", "runs/e"], 1, "are measured with another AP"),
        (["runs/a", "nowhere"], 2, "nowhere: no such folder"),
        (["runs/a", "--output", "file"], 2, "--output file is a file"),
        (["runs/a", "--output", "kept"], 2, "--output kept is the folder of a run"),
        (["runs/a", "--output", "runs/b"], 2, "--output runs/b is the folder of a run, or of several"),
        (["runs/a", "--output", "runs"], 2, "--output runs is the folder of a run, or of several"),
    ):
        out = [] if "--output" in arguments else ["--output", "out"]
        done = mlcl("ensemble", *arguments, *out)
        assert (done.status, done.out) == (status, "") and words in done.err and done.err.count("\n") == 1, done
    assert not Path("out").exists() and not list(Path("runs/b").glob("*.json"))
    done = mlcl("ensemble", "runs/a", "runs/b", "--output", "runs/out")
    assert done.status == 0 and "runs/a/version_2 is left out: it has no scores.npz" in done.err
    assert len(read(Path("runs/out")).summary["members"]) == 3
    again = mlcl("ensemble", "runs/a", "runs/b", "runs/out", "--output", "runs/out")  # its own folder is no member
    assert (again.status, again.out) == (0, done.out)
    done = mlcl("ensemble", "runs/b", "runs/out", "--output", "more")
    assert done.status == 1 and "runs/out is an ensemble itself; give the runs that it is made of" in done.err


@pytest.mark.slow
def test_two_real_runs_to_a_report_and_a_comparison(mlcl, trained, demo, capfd):
    flags = ("--data.val_fraction", "0.25", "--seed_everything", "1", "--model.optimizer.lr", "0.01")
    assert mlcl("fit", *demo, *flags).status == 0
    done = mlcl("ensemble", trained, "runs/demo", "--output", "runs/ensemble")
    assert done.status == 0, done.err
    summary = json.loads(Path("runs/ensemble/metrics.json").read_text())
    assert [member["checkpoint"].endswith("best.ckpt") for member in summary["members"]] == [True, True]
    assert main(["report", "runs/ensemble"]) == 0
    said = capfd.readouterr().err
    assert "no attention maps and no embeddings: an ensemble has no network of its own; the reports of its" in said
    page = Path("runs/ensemble/report.html").read_text()
    assert "<h1>ensemble</h1>" in page and "data:image/jpeg" in page and "not named" not in page
    assert f"runs/demo/version_0 (mAP {100 * summary['members'][1]['mAP']:.2f} %); mean of their" in page
    found = compare("runs/demo", "runs/ensemble")
    assert [result.name for result in found.results] == ["demo", "ensemble"]
    assert float(found.results[1].values["mAP"]) == pytest.approx(summary["metrics"]["mAP"])
