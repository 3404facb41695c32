"""Comparing where methods look: resampled means against repeated images, and what is concluded."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from support.saved_runs import compare, write_run

from mlcl.comparison import localisation, tables
from mlcl.comparison.bootstrap import image_weights
from mlcl.runs.results import read

IMAGES, CLASSES = 200, 4


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def localised_run(name, gain=0.0, seed=0, order=None):
    """A run whose attention lies ``gain`` more on the objects; its noise is its seed's, the images' is everybody's."""
    shared, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    targets = (shared.random((IMAGES, CLASSES)) < 0.3).astype(np.int8)
    rows, classes = (targets == 1).nonzero()
    kept = shared.random(len(rows)) < 0.9  # the others have no mask
    index, classes = rows[kept], classes[kept]
    chance, easy = shared.uniform(0.05, 0.3, len(index)), shared.normal(0, 0.1, len(index))
    energy = (chance + 0.2 + easy + gain + own.normal(0, 0.02, len(index))).clip(0, 1)
    folder = write_run(Path("runs") / name, torch.from_numpy(targets + own.normal(size=targets.shape)),
                       torch.from_numpy(targets), seed=seed, order=order)  # fmt: skip
    place = np.arange(IMAGES) if order is None else np.asarray(order)
    specificity = np.where(shared.random(len(index)) < 0.3, np.nan, energy - 0.1)
    np.savez(
        folder / "localisation.npz", index=place[index], classes=classes, area=np.full(len(index), 500.0),
        energy=energy, chance=chance,
        pointing=(energy > 0.4).astype(float), pointing_chance=chance, specificity=specificity,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("measure", localisation.COMPARED)
def test_resampled_means_are_those_of_repeated_images(measure):
    order = np.random.default_rng(3).permutation(IMAGES)
    run = read(localised_run("a", order=order))
    (weights,) = image_weights(IMAGES, 5, seed=0)
    drawn = localisation.resampled(run, measure, [weights[:, :2], weights[:, 2:]])
    found, values = run.localisation, getattr(run.localisation, measure)
    for b in range(5):
        times = {int(index): int(weights[row, b]) for row, index in enumerate(run.index)}
        for k in range(CLASSES):
            repeated = [
                value
                for value, index, own in zip(values, found.index, found.classes, strict=True)
                for _ in range(times[int(index)])
                if own == k and np.isfinite(value)
            ]
            assert drawn[b, k].item() == pytest.approx(np.mean(repeated))
    ones = localisation.resampled(run, measure, [torch.ones(IMAGES, 1)])[0]
    torch.testing.assert_close(ones, localisation.class_means(run, measure))


def test_a_planted_gain_is_found_and_equal_methods_are_not_different():
    for seed in range(5):
        localised_run(f"one/version_{seed}", seed=seed)
        localised_run(f"same/version_{seed}", seed=seed + 10)
        localised_run(f"better/version_{seed}", gain=0.03, seed=seed + 20)
    comparison = compare("runs/one", "runs/same", "runs/better", resamples=300)
    _, same, better = comparison.results
    for measure in localisation.COMPARED:
        values, gain = better.looks[measure]
        assert values.shape == (5,) and gain.low < gain.value < gain.high
        assert same.looks[measure][1].low < 0 < same.looks[measure][1].high
        assert gain.verdict == "better"
    assert better.looks["specificity"][1].value == pytest.approx(0.03, abs=0.01)
    table = tables.looks(comparison)
    assert len(table.rows) == 9 and table.rows[0][3:] == ["", ""] and " to " in table.rows[2][4]


def test_runs_that_measured_other_positives_are_not_compared():
    localised_run("a")
    folder = localised_run("b", seed=1)
    assert compare("runs/a", "runs/b").results[1].looks
    stored = dict(np.load(folder / "localisation.npz"))
    np.savez(folder / "localisation.npz", **{name: column[1:] for name, column in stored.items()})
    comparison = compare("runs/a", "runs/b")
    count = len(stored["index"])
    assert not comparison.results[1].looks and tables.looks(comparison) is None
    assert any(
        f"measured {count} positives" in note and f" {count - 1}, not the same" in note for note in comparison.notes
    )


def test_the_printed_table_has_all_of_its_numbers_at_80_columns():
    localised_run("a")
    localised_run("b", gain=0.03)
    table = tables.looks(compare("runs/a", "runs/b"))
    console = Console(width=80, file=io.StringIO())
    console.print(table.rich())
    printed = console.file.getvalue()
    assert all(text in printed for row in table.rows for text in row)


def test_another_map_is_noted():
    localised_run("a")
    folder = localised_run("b", seed=1)
    assert "maps of other sizes" not in " ".join(compare("runs/a", "runs/b").notes)
    columns = dict(np.load(folder / "localisation.npz"))
    np.savez(folder / "localisation.npz", **columns | {"chance": 0.9 * columns["chance"]})
    assert "maps of other sizes" in " ".join(compare("runs/a", "runs/b").notes)


def test_equal_runs_differ_by_nothing():
    localised_run("a")
    localised_run("b")
    _, other = compare("runs/a", "runs/b").results
    for values, gain in other.looks.values():
        assert (gain.value, gain.low, gain.high) == (0, 0, 0) and values.shape == (1,)
