"""Hidden labels: which, of which images, and what they must not depend on."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from support.trees import write_table

from mlcl.data.csv_file import CSVDataset
from mlcl.data.dataset import Samples
from mlcl.data.hiding import hide
from mlcl.errors import MlclError

ROOT = Path("/data/set")


def samples(count=400, classes=7, folder=ROOT):
    targets = np.random.default_rng(0).integers(-1, 2, (count, classes)).astype(np.int8)
    targets[3] = 0  # no present label
    return Samples([folder / "a" / f"{n}.jpg" for n in range(count)], targets)


def drawn(seed, name, k):
    """SplitMix64's output number k + 1, in whole numbers."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}\n{name}".encode(), digest_size=8).digest(), "little")
    z = (key + (k + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return ((z ^ z >> 31) >> 11) / 2**53


@pytest.mark.parametrize("single", [False, True])
def test_what_is_hidden_equals_a_loop(single):
    given = samples()
    before = given.targets.copy()
    found, line = hide(given, ROOT, 5, 1.0 if single else 0.3, single)
    wanted = before.copy()
    for i, row in enumerate(before.tolist()):
        numbers = [drawn(5, f"a/{i}.jpg", k) for k in range(len(row))]
        present = [k for k, label in enumerate(row) if label == 1]
        kept = [min(present, key=numbers.__getitem__)] if single and present else []
        for k, number in enumerate(numbers):
            if not (k in kept if single else number < 0.3):
                wanted[i, k] = -1
    assert np.array_equal(found.targets, wanted) and np.array_equal(given.targets, before)
    hidden, known = int((before != wanted).sum()), int((before != -1).sum())
    assert line.endswith(f": {hidden:,} of {known:,} known labels are hidden")
    assert found.paths is given.paths and found.targets.dtype == np.int8


def test_shares_and_choices_are_even():
    given = samples(4000)
    for share in (0.1, 0.5, 0.9):
        kept = hide(given, ROOT, 0, share, False)[0].targets
        known, total = (kept != -1).sum(0), (given.targets != -1).sum(0)
        assert np.allclose(known / total, share, atol=0.04)  # of every class: 4 standard deviations are 0.04
        few = hide(given, ROOT, 0, share / 2, False)[0].targets
        assert ((few != -1) <= (kept != -1)).all()  # a smaller share hides the same, and more
    everything = given._replace(targets=np.ones_like(given.targets))
    chosen = (hide(everything, ROOT, 0, 1.0, True)[0].targets == 1).sum(0)
    assert chosen.sum() == 4000 and np.allclose(chosen / 4000, 1 / 7, atol=0.025)


def test_only_seed_name_and_class_count():
    given, order = samples(), np.random.default_rng(1).permutation(400)
    for share, single in ((0.5, False), (1.0, True)):
        base = hide(given, ROOT, 0, share, single)[0].targets
        assert np.array_equal(hide(given.take(order), ROOT, 0, share, single)[0].targets, base[order])
        moved = samples(folder=Path("/elsewhere"))
        assert np.array_equal(hide(moved, Path("/elsewhere/b/.."), 0, share, single)[0].targets, base)
        assert not np.array_equal(hide(given, ROOT, 1, share, single)[0].targets, base)
        assert not np.array_equal(hide(given, ROOT / "a", 0, share, single)[0].targets, base)
    assert hide(given, ROOT, 0, 1.0, False) == (given, "")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    rows = [f"{i}.jpg,{i % 3 and 1},{i % 2},{-1 if i % 5 == 0 else int(i % 7 == 0)},train" for i in range(60)]
    rows += [f"t{i}.jpg,{i % 2},0,1,test" for i in range(4)]
    return write_table(tmp_path_factory.mktemp("hidden"), ["image,a,b,c,split", *rows])


def labels(root, **settings):
    data = CSVDataset(root=str(root), image_size=16, num_workers=0, **settings)
    data.setup()
    train, test = (data.splits[split] for split in ("train", "test"))
    return {path.name: row.tolist() for path, row in zip(train.paths, train.targets, strict=True)}, test, data


@pytest.mark.parametrize("how", [{"known_share": 0.4}, {"single_positive": True}])
def test_only_training_labels_are_hidden_the_same_in_every_split(root, how, monkeypatch, capsys):
    plain, test, _ = labels(root)
    capsys.readouterr()
    hidden, tested, data = labels(root, **how)
    assert f"({data.hidden})" in capsys.readouterr().err and "known labels are hidden" in data.hidden
    assert np.array_equal(tested.targets, test.targets)
    assert all(one == before or one == -1 for name in plain
               for one, before in zip(hidden[name], plain[name], strict=True))  # fmt: skip
    assert hidden != plain
    for more in ({"val_fraction": 0.3}, {"empty_images": "drop"}, {"val_fraction": 0.5, "split_seed": 4}):
        part, _, other = labels(root, **how, **more)
        assert part and part == {name: hidden[name] for name in part}
        if "val_fraction" in more:
            val = other.splits["val"]
            assert {p.name: r.tolist() for p, r in zip(val.paths, val.targets, strict=True)} == {
                path.name: plain[path.name] for path in val.paths
            }
    loaded = {int(i): t.tolist() for batch in data.train_dataloader() for i, t in
              zip(batch["index"], batch["target"], strict=True)}  # fmt: skip
    assert all(hidden[data.splits["train"].paths[i].name] == target for i, target in loaded.items())
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert labels(root, **how)[0] != hidden


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"known_share": 0.0}, r"data.known_share is 0.0, it must lie in \(0, 1\]"),
        ({"known_share": 1.5}, "data.known_share is 1.5"),
        ({"known_share": float("nan")}, "data.known_share is nan"),
        ({"known_share": 0.5, "single_positive": True}, "both hide labels: give one of them"),
    ],
)
def test_wrong_settings_are_refused(root, settings, words):
    with pytest.raises(MlclError, match=words):
        CSVDataset(root=str(root), **settings)


@pytest.mark.slow
def test_what_else_reads_the_training_labels(mlcl, demo, demo_root):
    """Cached features serve all of them; weights, probe and check take what is known; a line says what is lost."""
    flags = [*demo, "--trainer.max_epochs", "1", "--data.augment", "none", "--model.network.freeze_stages", "all"]
    flags += ["--data.cache", "features", "--data.cache_dir", "c", "--model.classification_loss.pos_weight", "auto"]
    single, nothing = ["--data.single_positive", "true"], "while --model.unknown is ignore, the network learns to"
    halved = mlcl("fit", *flags, "--data.known_share", "0.5")
    assert halved.status == 0 and "to beat: mAP" in halved.out and nothing not in halved.err, halved.err
    files = {path: path.stat().st_mtime_ns for path in Path("c").iterdir()}
    outcome = mlcl("fit", *flags, *single)
    assert outcome.status == 0 and outcome.err.count(nothing) == 1 and "to beat" not in outcome.out, outcome.err
    assert "pos_weight: from 1 to 1" in outcome.err and "single_positive: " in outcome.err
    assert "empty_cells" not in outcome.err, "no table is the reason"
    assert {path: path.stat().st_mtime_ns for path in Path("c").iterdir()} == files
    data = ["--data", "Demo", "--data.root", demo_root, "--data.train_images", "80", "--data.test_images", "25"]
    checked = mlcl("check", *data, "--data.scene_size", "64", "--data.num_workers", "0", *single)
    assert checked.status == 0 and "known labels are hidden)" in checked.out and nothing in checked.out
    stored = torch.load("runs/demo/version_1/checkpoints/last.ckpt", weights_only=True)
    assert "UnknownLabels" not in stored["callbacks"]
