"""What compare refuses, saying how two runs differ; and what it notes beside the table."""

import numpy as np
import pytest
import torch
from support.saved_runs import compare, small_run

from mlcl.comparison import page, tables
from mlcl.errors import MlclError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refusal(*runs):
    with pytest.raises(MlclError) as caught:
        compare(*runs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_label_protocol_is_refused():
    ignore = {"data": {"class_path": "mlcl.data.VOC2007", "init_args": {"difficult": "ignore"}}}
    negative = {"data": {"class_path": "mlcl.data.VOC2007", "init_args": {"difficult": "negative"}}}

    def with_entries(value):
        def change(logits, targets):
            targets[4, 1] = targets[9, 2] = value
            return logits, targets

        return change

    small_run("a/version_0", with_entries(-1), config=ignore)
    small_run("b/version_0", with_entries(0), config=negative)
    said = refusal("runs/a", "runs/b")
    for part in ("runs/a/version_0 and runs/b/version_0", "other labels", "2 entries", "images/0004.jpg", "class 1"):
        assert part in said
    assert "unknown against absent" in said and "data.difficult is ignore against negative" in said


def test_other_images_are_refused():
    small_run("a/version_0")
    small_run("b/version_0", names=[f"images/{i:04}.jpg" for i in range(2, 32)])
    small_run("c/version_0", lambda s, t: (s[:20], t[:20]))
    assert "other images: 2 only in the first (one is 'images/0000.jpg'), 2 only in the second (one is " in refusal(
        "runs/a", "runs/b"
    )
    assert "10 only in the first (one is 'images/0020.jpg')" in refusal("runs/a", "runs/c")
    small_run("d/version_0", names=["same.jpg"] * 30, order=[-1] * 30)
    assert "names and places in the dataset are both missing or not unique" in refusal("runs/a", "runs/d")


def test_other_classes_splits_and_definitions_are_refused():
    small_run("a/version_0", classes=["cat", "dog", "cow"])
    small_run("b/version_0", classes=["cat", "cow", "dog"])
    small_run("c/version_0", classes=["cat", "dog", "bus"])
    small_run("d/version_0", classes=["cat", "dog", "cow"], split="val")
    small_run("e/version_0", classes=["cat", "dog", "cow"], settings={"interpolation": "11point"})
    small_run("f/version_0", classes=["cat", "dog", "cow"], settings={"cf1": "mean"})
    small_run("g/version_0", classes=["cat", "dog", "cow"], settings={"threshold": 0.3})
    assert "classes in another order" in refusal("runs/a", "runs/b")
    assert "other classes: 1 only in the first (one is 'cow'), 1 only in the second (one is 'bus')" in refusal(
        "runs/a", "runs/c"
    )
    assert "other splits: test against val" in refusal("runs/a", "runs/d")
    assert "another AP: not interpolated, equal scores retrieved together against 11-point" in refusal(
        "runs/a", "runs/e"
    )
    assert "another CF1: 2 CP CR / (CP + CR) against mean of the classes' F1" in refusal("runs/a", "runs/f")
    said = "runs/g/version_0 and runs/a/version_0 are measured with another threshold: 0.3 against 0.5; run mlcl test"
    assert said in refusal("runs/a", "runs/g")
    small_run("h/version_0", classes=["cat", "dog", "cow"], settings={"threshold": [0.1, 0.2, 0.3]})
    assert said in refusal("runs/h", "runs/a", "runs/g")


def test_what_cannot_be_read_is_said():
    small_run("a/version_0")
    old = small_run("b/version_0")
    with np.load(old / "scores.npz") as file:
        arrays = {name: file[name] for name in file if name not in ("thresholds", "temperature")}
    np.savez(old / "scores.npz", **arrays)
    assert "no entry 'thresholds" in refusal("runs/a", "runs/b")
    (old / "scores.npz").write_bytes(b"PK\3\4 half a file")
    assert "runs/b/version_0: its results cannot be read" in refusal("runs/a", "runs/b")
    (small_run("c/version_0") / "metrics.json").unlink()
    assert "runs/c/version_0" in refusal("runs/a", "runs/c")
    (small_run("i/version_0") / "config.yaml").write_text("a: [")
    assert "config.yaml is not YAML" in refusal("runs/a", "runs/i")
    (small_run("d/version_0") / "metrics.json").write_text("{}")
    assert "no entry 'metrics'" in refusal("runs/a", "runs/d")
    for name in ("e", "f"):
        folder = small_run(f"{name}/version_0")
        text = (folder / "metrics.json").read_text().replace("not interpolated", "by guessing")
        (folder / "metrics.json").write_text(text)
    assert "its metric definitions are another version's" in refusal("runs/e", "runs/f")
    for name in ("g", "h"):
        small_run(f"{name}/version_0", lambda s, t: (s, t * 0))
    assert "so there is no AP to compare" in refusal("runs/g", "runs/h")


# What is noted.


def test_calibration_belongs_to_the_method_and_is_noted():
    small_run("a/version_0")
    small_run("b/version_0", settings={"threshold": [0.2, 0.4, 0.35], "temperature": 1.5})
    comparison = compare("runs/a", "runs/b")
    assert "b: temperature 1.5 and one threshold per class, 0.2 to 0.4" in comparison.notes
    assert comparison.results[0].values["CF1"] != comparison.results[1].values["CF1"]
    assert comparison.results[1].gain.high == 0
    assert comparison.definitions["threshold"] == "0.5, but where noted"
    other_way = compare("runs/b", "runs/a")
    assert other_way.definitions == comparison.definitions and "temperature" not in comparison.definitions


def test_runs_that_are_no_repeats_are_noted():
    model = lambda lr, epochs: {"model": {"optimizer": {"init_args": {"lr": lr}}}, "trainer": {"max_epochs": epochs}}  # noqa: E731
    for n in range(5):
        machine = {"trainer": {"max_epochs": 12, "accelerator": ("cpu", "gpu")[n % 2]}}
        own = lambda s, t, n=n: (s + n / 1000, t)  # noqa: E731
        small_run(f"a/version_{n}", own, seed=n, config={**model(0.1, 12), **machine})
        small_run(f"b/version_{n}", own, seed=n % 4, config=model((0.1, 0.2)[n == 3], (12, 20)[n == 4]))
    small_run("c/version_0")
    assert compare("runs/a", "runs/b").notes == [
        "b: its runs differ in more than the seed: model.optimizer.lr, trainer.max_epochs "
        "(runs/b/version_0 against runs/b/version_3)",
        "b: seed 0 more than once, so the spread is too small",
    ]
    assert compare("runs/a", "runs/c", "runs/a/version_1", "runs/b").notes[-2:] == [
        "c: one run only, so the interval knows nothing of the variation over seeds",
        "every interval is for its method alone: of many methods some differ by chance",
    ]


def test_a_later_test_of_the_same_network_is_no_run_of_its_own():
    """Such as that of a checkpoint of ``mlcl calibrate``, which lies beside the runs if the checkpoint does."""
    better = lambda s, t: (s + t, t)  # noqa: E731
    small_run("a/version_0")
    small_run("a/version_1", settings={"threshold": [0.2, 0.4, 0.35], "temperature": 1.5})
    small_run("b/version_0", better)
    twice = compare("runs/a", "runs/b")
    assert "runs/a/version_1 is left out: it holds the same scores as runs/a/version_0" in twice.notes
    assert [len(result.values["CF1"]) for result in twice.results] == [1, 1]
    once = compare("runs/a/version_0", "runs/b")
    assert (twice.results[1].gain.low, twice.results[1].gain.high) == (
        once.results[1].gain.low,
        once.results[1].gain.high,
    )
    each = compare("runs/a/version_0", "runs/a/version_1")  # as methods they may be compared
    assert len(each.results) == 2 and each.results[1].gain.value == 0


def test_few_runs_and_classes_without_positives_are_noted():
    for name in ("a/version_0", "a/version_1", "b/version_0"):
        n = int(name[-1])
        empty = lambda s, t, n=n: (s + n / 1000, t * torch.tensor([1, 0, 1], dtype=torch.int8))  # noqa: E731
        small_run(name, empty, seed=n)
    comparison = compare("runs/a", "runs/b")
    assert any(note.startswith("a: fewer than 5 runs") for note in comparison.notes)
    assert comparison.notes[-1] == "no positive, so no AP, and left out of all means: class 1"
    assert tables.per_class(comparison).rows[1][1:] == ["0", "-", "-", "-", "-", "-"]
    assert tables.metrics(comparison, ("mAP",)).rows[1][2].endswith(" ± -")
    assert len(page.per_class_gains(comparison).axes[0].get_yticks()) == 2
