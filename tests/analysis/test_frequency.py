"""Head, medium and tail: against plain loops, and as an evaluation writes and shows them."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlcl.analysis.frequency import by_frequency, groups
from mlcl.data import Demo
from mlcl.errors import MlclError
from mlcl.report import page
from mlcl.report.findings import gather
from mlcl.report.views import views
from mlcl.runs.results import read


def in_loops(class_ap, counts, borders):
    found = {"head": [], "medium": [], "tail": []}
    for ap, count in zip(class_ap, counts, strict=True):
        found["tail" if count <= borders[0] else "head" if count > borders[1] else "medium"].append(ap)
    if sum(len(aps) > 0 for aps in found.values()) < 2:
        return None
    result = {"borders": [*borders]}
    for name, aps in found.items():
        known = [ap for ap in aps if not math.isnan(ap)]
        result[name] = {"classes": len(aps), "mAP": pytest.approx(sum(known) / len(known)) if known else None}
    return result


def test_groups_in_plain_loops():
    rng, shown = np.random.default_rng(0), 0
    for _ in range(200):
        counts = rng.integers(0, rng.integers(2, 40), rng.integers(1, 9))
        class_ap = np.where(rng.random(len(counts)) < 0.3, np.nan, rng.random(len(counts)))
        borders = tuple(sorted(rng.choice(20, 2, replace=False).tolist()))
        expected = in_loops(class_ap.tolist(), counts.tolist(), borders)
        assert by_frequency(class_ap, counts, borders) == expected
        shown += expected is not None
    assert 50 < shown < 200


def test_the_borders_themselves():
    chosen = groups(np.array([0, 20, 21, 100, 101]), (20, 100))
    assert {name: own.nonzero()[0].tolist() for name, own in chosen.items()} == {
        "head": [4], "medium": [2, 3], "tail": [0, 1]}  # fmt: skip


def test_one_group_is_not_shown():
    """As of the demo, whose classes all have hundreds of images: its mAP would stand there twice."""
    counts = np.array([380, 402, 444])
    assert by_frequency(np.array([0.1, 0.2, 0.3]), counts, (20, 100)) is None
    assert by_frequency(np.array([0.1, np.nan, 0.3]), counts, (400, 420))["medium"] == {"classes": 1, "mAP": None}


@pytest.mark.slow
def test_a_test_writes_and_prints_them(mlcl, trained, demo_root):
    """The counts are those of the images that are trained on, without the ones held out."""
    data = Demo(str(demo_root), train_images=80, test_images=25, scene_size=64, val_fraction=0.25)
    data.setup("test")
    counts = [sum(int(row[k] == 1) for row in data.splits["train"].targets) for k in range(12)]
    shutil.copytree(trained, "runs/demo/version_0")
    flags = ["test", "--ckpt_path", "runs/demo/version_0/checkpoints/best.ckpt", "--data.frequency_borders"]
    outcome = mlcl(*flags, "[9,13]")
    assert outcome.status == 0, outcome.err
    (folder,) = Path("runs/demo/version_0").glob("test_*")
    results, summary = read(folder), json.loads((folder / "metrics.json").read_text())
    rows = list(csv.DictReader((folder / "per_class.csv").read_text().splitlines()))
    assert [*rows[0]][-1] == "train_positives" and [int(row["train_positives"]) for row in rows] == counts
    assert summary["frequency"] == in_loops([float(row["AP"] or "nan") for row in rows], counts, (9, 13))
    assert results.frequency[0].tolist() == counts and results.frequency[1] == (9, 13)
    line = " ".join(outcome.out.split())
    assert f"mAP by training images: head {100 * summary['frequency']['head']['mAP']:.2f} (" in line
    assert "head: more than 13 training images, tail: at most 9" in line
    page.write(folder, Path("page.html"), max_images=0)
    text = Path("page.html").read_text()
    assert (
        "(head: more than 13 training images, tail: at most 9)" in text and '<th scope="col">in training</th>' in text
    )
    group = summary["frequency"]["medium"]
    assert f'<th scope="row">medium</th><td>{group["classes"]}</td><td data-value="{100 * group["mAP"]:.2f}"' in text
    table = views(gather(folder, max_images=0)).tables["frequency"]
    assert table.rows[2][:2] == ["tail", summary["frequency"]["tail"]["classes"]]
    assert table.rows[2][2] == pytest.approx(100 * summary["frequency"]["tail"]["mAP"])

    before = json.loads((trained / "metrics.json").read_text())  # with 20 and 100, all of its classes are tail
    assert max(counts) <= 20 and "frequency" not in before and read(trained).frequency is None
    assert "train_positives" in (trained / "per_class.csv").read_text()
    assert mlcl(*flags, "[5,5]").err.splitlines()[-1].endswith("it must be two whole numbers, such as [20, 100]")

    shutil.copytree(folder, "damaged")
    for content in ({"frequency": []}, {"frequency": {"borders": [1]}}, {"frequency": {"borders": "ab"}}):
        Path("damaged/metrics.json").write_text(json.dumps({**summary, **content}))
        with pytest.raises(MlclError, match="damaged: its results cannot be read"):
            _ = read(Path("damaged")).frequency
