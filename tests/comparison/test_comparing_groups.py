"""The mAP of head, medium and tail classes over several runs, against plain loops."""

import csv
import json
import statistics
from pathlib import Path

import pytest
import torch
from support.saved_runs import compare, write_run

from mlcl.comparison import page, tables
from mlcl.metrics import average_precision
from mlcl.runs.results import read

IMAGES, COUNTS = 120, [400, 130, 90, 21, 20, 3]
GROUPS = {"head": [0, 1], "medium": [2, 3], "tail": [4, 5]}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def counted_run(name, gain=0.0, seed=0, counts=COUNTS, borders=(20, 100), written=True):
    """A run that is better by ``gain`` on its tail classes only; the last class is in no image."""
    generator, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    targets = (torch.rand(IMAGES, 6, generator=generator) < 0.2).to(torch.int8)
    targets[:, 5] = 0
    logits = torch.randn(IMAGES, 6, generator=own) + 1.5 * targets
    logits[:, 4:] += gain * targets[:, 4:]
    folder = write_run(Path("runs") / name, logits, targets, seed=seed)
    summary = json.loads((folder / "metrics.json").read_text())
    if written:
        (folder / "metrics.json").write_text(json.dumps({**summary, "frequency": {"borders": [*borders]}}))
    with (folder / "per_class.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["class", "AP", "train_positives"], *([k, "", n] for k, n in enumerate(counts))])
    ap = average_precision(logits, targets)
    means = {group: [float(ap[k]) for k in classes if k != 5] for group, classes in GROUPS.items()}
    return {group: statistics.mean(values) for group, values in means.items()}


def test_means_and_differences_of_each_group(capsys):
    own = {"one": [counted_run(f"one/version_{n}", seed=n) for n in range(3)]}
    own["two"] = [counted_run(f"two/version_{n}", gain=3.0, seed=n + 10) for n in range(3)]
    comparison = compare("runs/one", "runs/two", resamples=200)
    assert comparison.borders == (20, 100) and not any("tail" in note for note in comparison.notes)
    one, two = comparison.results
    for group in GROUPS:
        values, gain = two.groups[group]
        assert values.tolist() == pytest.approx([run[group] for run in own["two"]])
        assert one.groups[group][0].tolist() == pytest.approx([run[group] for run in own["one"]])
        means = [statistics.mean(run[group] for run in own[name]) for name in ("one", "two")]
        assert gain.value == pytest.approx(means[1] - means[0]) and gain.low < gain.value < gain.high
    assert two.groups["tail"][1].verdict == "better" and two.groups["head"][1].low < 0 < two.groups["head"][1].high
    table = tables.groups(comparison)
    sd = statistics.stdev(100 * run["tail"] for run in own["two"])
    assert table.rows[-1][:2] == ["two", "tail"] and table.rows[-1][2].endswith(f"± {sd:.2f}")
    files = page.write(comparison, Path("out"))
    for text in (files[0].read_text(), files[1].read_text()):
        assert "head: more than 100 training images, tail: at most 20" in text
    page.show(comparison)
    assert "mAP by number of training images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"counts": [401, *COUNTS[1:]]}, "were trained on other labels"),
        ({"borders": (20, 101)}, "has the borders (20, 100), runs/b/version_0 (20, 101)"),
        ({"written": False}, "no such groups in metrics.json of runs/b/version_0 (1 of 2 runs)"),
    ],
)
def test_runs_without_common_groups_are_not_compared_in_them(other, words):
    counted_run("a/version_0")
    counted_run("b/version_0", **other)
    comparison = compare("runs/a", "runs/b")
    assert comparison.borders is None and tables.groups(comparison) is None and comparison.results[1].gain is not None
    assert [note for note in comparison.notes if "head, medium and tail" in note and words in note]


def test_a_group_without_ap_is_left_out():
    for name in ("a", "b"):
        counted_run(f"{name}/version_0", counts=[400, 130, 90, 21, 21, 3])
    assert {*compare("runs/a", "runs/b").results[1].groups} == {"head", "medium"}


def test_an_ensemble_keeps_the_groups_of_its_members(mlcl):
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        counted_run(f"{name}/version_0", seed=seed, counts=COUNTS if name != "c" else [401, *COUNTS[1:]])
    assert mlcl("ensemble", "runs/a", "runs/b", "--output", "both").status == 0
    found = read(Path("both"))
    counts, borders = found.frequency
    assert counts.tolist() == COUNTS and borders == (20, 100)
    for group, classes in GROUPS.items():
        means = statistics.mean(float(found.class_ap[k]) for k in classes if k != 5)
        assert found.summary["frequency"][group] == {"classes": 2, "mAP": pytest.approx(means)}
    assert compare("runs/a", "both").borders == (20, 100)
    assert mlcl("ensemble", "runs/a", "runs/c", "--output", "other").status == 0
    assert read(Path("other")).frequency is None
