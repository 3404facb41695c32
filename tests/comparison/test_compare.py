"""compare: its numbers, which runs are whose, what is written; and what it concludes from simulated methods."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.saved_runs import compare, small_run, write_run

from mlcl.comparison import folders, outcome, page
from mlcl.errors import MlclError
from mlcl.metrics import MultiLabelMetrics
from mlcl.runs.results import read

IMAGES, CLASSES = 600, 12
ATTACK = "<script>alert(1)</script>|`[x](y)*_$"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def simulate(root, case, runs, resamples, gain=0.0):
    """Two methods on the same images, which are easy or hard for both; seeds differ by quality and by noise.

    The standard deviation over seeds is about one point of mAP; a gain of 0.04 is worth two points.
    """
    generator = np.random.default_rng(case)
    targets = (generator.random((IMAGES, CLASSES)) < 0.2).astype(np.int8)
    difficulty = generator.normal(size=targets.shape)
    for method, signal in (("one", 2.0), ("two", 2.0 * (1 + gain))):
        for seed in range(runs):
            quality = signal * (1 + 0.02 * generator.normal())
            logits = quality * targets + difficulty + 0.4 * generator.normal(size=targets.shape) - 1
            write_run(root / method / f"version_{seed}", torch.from_numpy(logits).float(), torch.from_numpy(targets),
                      seed=seed)  # fmt: skip
    return outcome.compare(folders.find([root / "one", root / "two"])[0], resamples)


@pytest.mark.slow
def test_equal_methods_are_no_different_in_9_of_10_pairs(tmp_path):
    found = [simulate(tmp_path / str(case), case, runs=5, resamples=200) for case in range(10)]
    spreads = [float(result.values["mAP"].std()) for comparison in found for result in comparison.results]
    assert 0.007 < np.mean(spreads) < 0.014  # the simulation is as noisy as real seeds are
    verdicts = [comparison.results[1].gain.verdict for comparison in found]
    assert verdicts.count("no difference at the 95 % level") >= 9  # measured on 100 pairs: 98 %


@pytest.mark.slow
def test_a_planted_gain_of_two_points_is_found(tmp_path):
    found = [simulate(tmp_path / str(case), case, runs=10, gain=0.04, resamples=200) for case in range(5)]
    gains = [comparison.results[1].gain for comparison in found]
    assert float(np.mean([gain.value for gain in gains])) == pytest.approx(0.02, abs=0.004)
    assert sum(gain.verdict == "better" for gain in gains) >= 4  # measured on 40 pairs: 98 %; with 5 runs each 61 %
    assert all(gain.low < gain.value < gain.high and gain.below < 0.1 for gain in gains)


def test_numbers_are_those_of_the_metrics():
    variant = {"interpolation": "envelope", "cf1": "mean"}
    for n in range(3):
        small_run(f"a/version_{n}", lambda s, t, n=n: (s + n, t), seed=n, settings=variant)
    small_run("b/version_0", settings=variant)
    comparison = compare("runs/b", "runs/a")
    assert [result.name for result in comparison.results] == ["b", "a"]
    assert comparison.definitions["CF1"] == "mean of the classes' F1"
    run = read(Path("runs/a/version_2"))
    metrics = MultiLabelMetrics(3, **variant)
    metrics.update(torch.from_numpy(run.logits), torch.from_numpy(run.targets))
    for name, value in metrics.compute().items():
        assert comparison.results[1].values[name][2] == value
    assert torch.equal(comparison.results[1].class_ap[2], metrics.evaluation.class_ap)
    gain = comparison.results[1].gain  # adding a number to every logit changes no ranking
    assert (gain.value, gain.low, gain.high, gain.below) == (0, 0, 0, 0)
    assert gain.verdict == "no difference at the 95 % level"


def test_images_in_another_order_are_the_same_images():
    small_run("a/version_0")
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    names = [f"images/{i:04}.jpg" for i in order.argsort().tolist()]  # place in the dataset to name
    small_run("b/version_0", order=order, names=names)
    stored = read(Path("runs/b/version_0"))
    assert stored.images.tolist() != read(Path("runs/a/version_0")).images.tolist()
    gain = compare("runs/a", "runs/b").results[1].gain
    assert (gain.low, gain.high) == (0, 0)
    small_run("c/version_0", names=[])  # no names: by place in the dataset
    assert compare("runs/a", "runs/c").results[1].gain.high == 0


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    small_run("a/version_0")
    small_run("b/version_0", lambda s, t: (s + torch.arange(30)[:, None] % 3, t))
    methods = folders.find([Path("runs/a"), Path("runs/b")])[0]
    gains = [outcome.compare(methods, 100, seed).results[1].gain for seed in (0, 0, 1)]
    assert gains[0].low == gains[1].low and torch.equal(gains[0].class_high, gains[1].class_high)
    assert gains[0].low != gains[2].low


def test_worse_is_said_of_the_worse_one():
    small_run("a/version_0")
    small_run("b/version_0", lambda s, t: (s - 3 * t, t))
    first, second = compare("runs/a", "runs/b"), compare("runs/a", "runs/b", baseline=Path("runs/b"))
    assert (first.results[1].gain.verdict, second.results[1].gain.verdict) == ("worse", "better")
    assert first.results[1].gain.below == 1 and [result.name for result in second.results] == ["b", "a"]


# Which runs are whose.


def found(*runs, baseline=None):
    methods, notes = folders.find([Path(run) for run in runs], baseline and Path(baseline))
    return {method.name: [str(run.relative_to(Path.cwd())) for run in method.runs] for method in methods}, notes


def test_folders_become_methods():
    for name in ("runs/a/version_0", "runs/a/version_2", "runs/a/version_10", "runs/a/version_2/test_0",
                 "runs/b/version_1/test_9", "runs/b/version_1/test_10", "old/a/version_0", "moved"):  # fmt: skip
        Path(name).mkdir(parents=True)
        (Path(name) / "scores.npz").touch()
    Path("runs/a/version_3").mkdir()
    a = ["runs/a/version_0", "runs/a/version_2", "runs/a/version_10"]
    b = ["runs/b/version_1/test_10"]  # training left no scores: the newest test
    assert found("runs/a", "runs/b") == ({"a": a, "b": b}, ["runs/a/version_3 is left out: it has no scores.npz"])
    assert found("runs/b", "runs/a/version_2/test_0", "moved")[0] == {
        "b": b, "a": ["runs/a/version_2/test_0"], "moved": ["moved"]}  # fmt: skip
    assert found("runs/a/version_0", "runs/a", "runs/b")[0]["a"] == a  # a run is counted once
    assert found("runs/a/version_0", "old/a")[0] == {"runs/a": a[:1], "old/a": ["old/a/version_0"]}
    assert found("runs/a/version_0", "runs/a/version_2")[0] == {"version_0": a[:1], "version_2": a[1:2]}
    assert list(found("runs/b", "runs/a", baseline="runs/a/version_10")[0]) == ["a", "b"]
    assert found("runs/b", baseline="runs/a/version_10")[0] == {"a": a[2:], "b": b}


def test_folders_that_cannot_be_compared():
    Path("runs/a/version_0").mkdir(parents=True)
    Path("runs/a/version_0/scores.npz").touch()
    Path("runs/b").mkdir()
    for runs, message in (
        (["runs/a", "runs/c"], r"runs/c: no such folder, such as"),
        (["runs/a", "runs/a/version_0/scores.npz"], r"scores.npz: is a file; give the run"),
        (["runs/a", "runs/b"], r"runs/b: no scores.npz in it or in its version_<n>; .*mlcl test"),
        (["runs/a", "runs/a/version_0"], r"only one method was given, runs/a/version_0: name two"),
    ):
        with pytest.raises(MlclError, match=message):
            folders.find([Path(run) for run in runs])


# What is written and said.


def test_files_and_table(mlcl):
    for n in range(2):
        small_run(f"bce/version_{n}", lambda s, t, n=n: (s + n * torch.arange(30)[:, None] % 5, t), seed=n)
        small_run(f"[red]asl/version_{n}", lambda s, t, n=n: (s + n * t, t), seed=n)
    done = mlcl("compare", "runs/bce", "runs/[red]asl", "--resamples", "100", "--output", "out")
    assert done.status == 0, done.err
    assert "test: 30 images, 3 classes; percent" in done.out and "[red]asl" in done.out
    assert re.search(r"bce \(baseline\) +│ +2 │ +\d\d\.\d\d ± \d+\.\d\d", done.out)
    assert "AP: not interpolated" in done.out and "out/compare.md, out/compare.html" in done.out
    assert Path("out/per_class_gains.png").read_bytes().startswith(b"\x89PNG")
    text = Path("out/compare.md").read_text()
    assert "![Bars of the AP gain of each class over bce" in text and "](per_class_gains.png)" in text
    assert "| \\[red\\]asl | 2 |" in text and "- CF1: 2 CP CR / (CP + CR)" in text
    html = Path("out/compare.html").read_text()
    assert 'role="img"' in html and 'class="sortable"' in html and "2 CP CR / (CP + CR)" in html
    again = mlcl("compare", "runs/bce", "runs/[red]asl", "out", "--resamples", "100", "--output", "out")
    assert (again.status, again.out) == (0, done.out)  # its own folder, as runs/* would name it, is no run
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "url(http" not in html


def test_names_are_text_everywhere(capsys, monkeypatch):
    folder = ATTACK.replace("/", "")
    small_run("a/version_0", classes=[ATTACK, "$x$", "\u732b"])
    small_run(f"{folder}/version_0", lambda s, t: (s + t, t), classes=[ATTACK, "$x$", "\u732b"])
    comparison = compare("runs/a", f"runs/{folder}")
    files = page.write(comparison, Path("out"))
    text, html = (file.read_text() for file in files[:2])
    assert "<script>alert" not in html and html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert html.count("<script") == html.count('<script nonce="')
    assert "<script" not in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    cells = [{len(re.findall(r"(?<!\\)\|", line)) for line in block} for block in blocks]
    assert cells == [{10}, {6}, {9}]
    monkeypatch.setenv("COLUMNS", "150")
    page.show(comparison)
    assert f"│ {folder} │" in capsys.readouterr().out


def test_help_and_mistakes_import_nothing_heavy(mlcl):
    script = (
        "import sys; from mlcl.__main__ import main; status = main(sys.argv[1:]);"
        "print(status, [m for m in ('numpy', 'torch', 'matplotlib', 'jinja2') if m in sys.modules])"
    )
    for arguments, said in (
        (["--help"], "0 []"),
        (["nowhere", "nothing"], "2 []"),
        (["a", "b", "--resamples", "10"], "2 []"),
    ):
        done = subprocess.run([sys.executable, "-c", script, "compare", *arguments], capture_output=True, text=True,
                              check=True)  # fmt: skip
        assert done.stdout.splitlines()[-1] == said, done.stderr
    assert mlcl("compare", "nowhere").err == "mlcl: nowhere: no such folder, such as runs/bce or runs/bce/version_0\n"
    assert "--resamples 10: too few for a 95 % interval" in mlcl("compare", "a", "b", "--resamples", "10").err
    Path("file").touch()
    assert "--output file is a file; give a folder" in mlcl("compare", "a", "b", "--output", "file").err
    assert "RUN" in mlcl("compare").err
    help_text = mlcl("compare", "--help").out
    assert all(option in help_text for option in ("--baseline", "--resamples", "--seed", "--output", "default: 1000"))
