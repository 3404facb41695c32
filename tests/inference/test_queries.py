"""A head whose queries come from a file: every use of a checkpoint but a continued training goes without that file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mlcl.inference import export, load
from mlcl.inference.embeddings import collect
from mlcl.inference.rebuild import Rebuilt
from mlcl.runs import record
from mlcl.runs.results import read

HEAD = ("--model.network.head", "QueryDecoder", "--model.network.head.dim", "16", "--model.network.head.ffn", "16")
FILE = "--model.network.head.queries"


@pytest.fixture
def words(tmp_path):
    np.save(tmp_path / "words.npy", np.random.default_rng(0).normal(size=(12, 6)))
    return tmp_path / "words.npy"


@pytest.fixture
def small(demo):
    """Flags of a training of two steps."""
    return [*demo, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--data.image_size", "32"]


def test_a_checkpoint_is_loaded_without_the_file_and_continued_with_it(mlcl, small, words, demo_root):
    """What the other test shows of every command, of two of them."""
    outcome = mlcl("fit", *small, "--test_after_fit", "false", *HEAD, FILE, "words.npy")
    assert outcome.status == 0, outcome.err
    run = Path("runs/demo/version_0")
    vectors = torch.from_numpy(np.load(words)).float()
    words.rename("moved.npy")
    model = load(run, "cpu")
    torch.testing.assert_close(model.network.head.query_vectors, vectors / vectors.norm(dim=1, keepdim=True) * 6**0.5)
    assert model(sorted((demo_root / "val2014").glob("*.jpg"))[:2]).scores.shape == (2, 12)
    outcome = mlcl("fit", "--ckpt_path", "last", "--name", "demo")
    assert outcome.status == 1 and f"{FILE.strip('-')} words.npy: no such file" in outcome.err
    outcome = mlcl("fit", "--ckpt_path", "last", "--name", "demo", FILE, "moved.npy")
    assert outcome.status == 1 and f"queries was words.npy, now moved.npy; give {FILE} words.npy, or" in outcome.err


@pytest.mark.slow  # thirteen command lines
def test_a_checkpoint_needs_the_file_no_more(mlcl, demo, words, demo_root):
    demo += ["--trainer.max_epochs", "1"]
    outcome = mlcl("fit", *demo, "--data.val_fraction", "0.25", *HEAD, FILE, "words.npy")
    assert outcome.status == 0, outcome.err
    run, best = Path("runs/demo/version_0"), Path("runs/demo/version_0/checkpoints/best.ckpt")
    vectors = torch.from_numpy(np.load(words)).float()
    stored = record.load(best)["state_dict"][f"network.{record.VECTORS}"]
    torch.testing.assert_close(stored, vectors / vectors.norm(dim=1, keepdim=True) * 6**0.5)
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["network"]["init_args"]["head"]["init_args"][
        "queries"] == "words.npy"  # fmt: skip
    logits = read(run).logits
    words.rename("moved.npy")
    assert torch.equal(Rebuilt(best).network().head.query_vectors, stored)
    paths = [demo_root / name for name in read(run).images]
    model = load(run, "cpu")
    np.testing.assert_allclose(torch.logit(model(paths[:3]).scores.double()), logits[:3], atol=1e-4)
    assert not torch.equal(export.Exported(model)(model.preprocess(paths[0])[None]), torch.zeros(1, 12))
    assert collect(model, Rebuilt(best).datamodule(), "test", rows=[0, 1]).vectors.shape[1] == 16
    for flags in ((), ("--config", run / "config.yaml", FILE, "nowhere.npy")):  # what the checkpoint holds counts
        outcome = mlcl("test", "--ckpt_path", run, "--data.num_workers", "0", *flags)
        assert outcome.status == 0, outcome.err
        assert "queries" not in outcome.err
    for number in range(2):
        np.testing.assert_allclose(read(run / f"test_{number}").logits, logits, atol=1e-5)
    images = ("--images", *paths[:2], "--num_workers", "0", "--output")
    assert mlcl("predict", "--ckpt_path", run, *images, "p.jsonl").status == 0
    assert mlcl("calibrate", "--ckpt_path", run, "--num_workers", "0", "--output", "c.ckpt").status == 0
    assert mlcl("predict", "--ckpt_path", "c.ckpt", *images, "q.jsonl").status == 0
    scores = [json.loads(Path(name).read_text().splitlines()[0])["scores"] for name in ("p.jsonl", "q.jsonl")]
    assert scores[0] != scores[1]
    outcome = mlcl("report", run, "--max_images", "4")
    assert outcome.status == 0 and "no attention maps" not in outcome.err

    # A continued training needs it, and the same one; a new training takes its own.
    outcome = mlcl("fit", "--ckpt_path", "last", "--name", "demo")
    assert outcome.status == 1 and f"{FILE.strip('-')} words.npy: no such file" in outcome.err
    outcome = mlcl("fit", "--ckpt_path", "last", "--name", "demo", FILE, "moved.npy")
    assert outcome.status == 1 and f"queries was words.npy, now moved.npy; give {FILE} words.npy, or" in outcome.err
    shutil.copy("moved.npy", "words.npy")
    assert mlcl("fit", "--ckpt_path", "last", "--name", "demo").status == 0
    words.unlink()
    np.save("other.npy", np.random.default_rng(1).normal(size=(12, 6)))
    new = ("--model.init_from", best, "--name", "second", "--test_after_fit", "false")
    outcome = mlcl("fit", *demo, *HEAD, FILE, "other.npy", *new)
    assert outcome.status == 0 and "as initialised: head.query_vectors" in outcome.err, outcome.err
    own = record.load("runs/second/version_0/checkpoints/last.ckpt")["state_dict"][f"network.{record.VECTORS}"]
    assert not torch.equal(own, stored)
    assert mlcl("fit", *demo, *HEAD, *new).status == 0  # learned queries after all


def test_what_is_no_file_of_a_training(mlcl, demo, words):
    np.save("few.npy", np.ones((3, 2)))
    for value, status, said in (
        ("few.npy", 1, "queries few.npy: 3 rows for 12 classes; it needs one for each"),
        ("nowhere.npy", 1, "model.network.head.queries nowhere.npy: no such file"),
        ("6", 1, "queries 6"),
    ):
        outcome = mlcl("fit", *demo, *HEAD, FILE, value)
        assert outcome.status == status and said in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert not list(Path().glob("runs/*/*"))
