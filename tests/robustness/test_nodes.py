"""The same numbers from files and from a pack, on any number of workers, ranks and nodes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.nodes import can_hide_folders, run_nodes, run_ranks
from support.trees import write_table

from mlcl.__main__ import main
from mlcl.data.csv_file import CSVDataset
from mlcl.data.streamed import Streamed

RESULTS = ("metrics.json", "per_class.csv", "scores.npz", "label_issues.csv")
TESTED = 24  # of 25 images, which neither ranks nor batches divide; one process has one in its last batch, others three


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with unknown labels and a broken picture in each split, as files and as a pack; and a trained run."""
    folder = tmp_path_factory.mktemp("nodes")
    random, rows = np.random.default_rng(0), ["image,ant,bee,cow,split"]
    for number in range(62):
        labels = ",".join(random.choice(["1", "0", ""], 3, p=[0.4, 0.4, 0.2]))
        rows.append(f"{number:02d}.jpg,{labels},{'train' if number < 37 else 'test'}")
    write_table(folder / "files", rows)
    for broken in (5, 40):
        (folder / "files" / f"{broken:02d}.jpg").write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        files = ["--data", "CSVDataset", "--data.root", "files", "--data.num_workers", "0"]
        assert main(["pack", *files, "--data.on_bad_image", "skip", "--output", str(folder / "pack")]) == 0
        assert main(["fit", *training("files", folder), "--name", "run"]) == 0
    return folder


def training(source: str, place: Path) -> list[str]:
    """Flags of an epoch of which every step is logged, from the files or the pack."""
    kind = {"files": "CSVDataset", "pack": "Streamed"}[source]
    return [
        *("--data", kind, "--data.root", str(place / source), "--data.image_size", "32", "--data.batch_size", "4"),
        *("--data.num_workers", "0", "--data.on_bad_image", "skip", "--name", source, "--trainer.max_epochs", "1"),
        *("--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"),
        *("--model.network.head", "SemanticAttention", "--model.network.head.dim", "16"),
        *("--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"),
    ]


def evaluation(source: str, place: Path) -> list[str]:
    """Flags of a test of the trained run."""
    kind = {"files": "CSVDataset", "pack": "Streamed"}[source]
    return ["--ckpt_path", str(place / "runs/run/version_0"), "--data", kind, "--data.root", str(place / source)]


def newest(place: Path) -> Path:
    return max((place / "runs/run/version_0").glob("test_*"), key=lambda folder: folder.stat().st_mtime_ns)


def assert_same_results(one: Path, other: Path) -> None:
    """Byte for byte."""
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def expected(place: Path) -> Path:
    """The results of one process that reads files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["test", *evaluation("files", place), "--data.num_workers", "0"]) == 0
    return newest(place)


def test_what_is_compared_has_unknown_labels_and_a_picture_that_is_skipped(expected: Path):
    summary = json.loads((expected / "metrics.json").read_text())
    assert summary["N"] == TESTED and summary["skipped_images"] == 1 and summary["unknown_entries"] > 0
    assert 0 < summary["embedding_spread"] < 1 and 0 < summary["metrics"]["mAP"] < 1
    assert (expected / "bad_images.csv").read_text().count("40.jpg") == 1


@pytest.mark.parametrize(
    ("source", "workers"),
    [("files", 3), *(pytest.param("pack", n, marks=[pytest.mark.slow] * (n < 3)) for n in (0, 1, 3))],
)
def test_results_do_not_depend_on_workers_and_where_pictures_lie(source, workers, place: Path, expected: Path, mlcl):
    done = mlcl("test", *evaluation(source, place), "--data.num_workers", workers)
    assert done.status == 0, done.err
    assert_same_results(newest(place), expected)


@pytest.mark.parametrize(
    ("source", "nodes", "each", "workers"),
    [
        ("pack", 2, 1, 0),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (("pack", 2, 2, 0), ("pack", 1, 2, 1), ("pack", 1, 3, 3), ("files", 1, 3, 1))
        ),
    ],
)
def test_results_do_not_depend_on_ranks(source, nodes, each, workers, place: Path, expected: Path):
    told = *evaluation(source, place), "--data.num_workers", str(workers)
    statuses, err = run_ranks(nodes, each, "test", *told, cwd=place)
    assert {*statuses} == {0}, err
    assert_same_results(newest(place), expected)
    assert (newest(place) / "bad_images.csv").read_text().count("40.jpg") == 1


@pytest.mark.slow
def test_two_nodes_under_torchrun_give_one_result_without_being_told_how_many_they_are(place: Path, expected: Path):
    status, out, err = run_nodes(2, 2, "test", *evaluation("pack", place), "--data.num_workers", "1", cwd=place)
    assert status == [0, 0], err
    assert not any(words in err for words in ("Initializing", "distributed_backend", "Seed set")), err
    assert out.count("results in") == 1
    assert_same_results(newest(place), expected)


@pytest.mark.parametrize("hidden", [{"known_share": 0.5}, {"single_positive": True}])
def test_the_same_labels_are_hidden(hidden, place: Path):
    files, pack = (
        kind(root=str(place / name), on_bad_image="skip", num_workers=0, **hidden)
        for kind, name in ((CSVDataset, "files"), (Streamed, "pack"))
    )
    for data in (files, pack):
        data.setup()
    assert files.hidden == pack.hidden and (files.splits["train"].targets == pack.splits["train"].targets).all()
    for split in ("train", "test"):
        assert files.splits[split].names(files.root) == pack.splits[split].names(pack.root)
    for data in (files, pack):
        some = data.splits["train"].take(np.arange(0, 37, 3))
        assert data.splits["train"].among(some).nonzero()[0].tolist() == list(range(0, 37, 3))
        assert not data.splits["test"].among(some).any()


def assert_same_training(one: Path, other: Path) -> None:
    """The losses of all steps, the weights, and the results of the best checkpoint."""
    logs = [list(csv.reader((run / "metrics.csv").read_text().splitlines())) for run in (one, other)]
    assert logs[0] == logs[1] and len(logs[0]) > 3
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for name in RESULTS[1:]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((run / "metrics.json").read_text()) for run in (one, other))
    assert {**first, "checkpoint": ""} == {**second, "checkpoint": ""} and first["N"] == TESTED


@pytest.mark.parametrize("workers", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_one_process_trains_from_a_pack_as_from_files(workers, place: Path, mlcl, tmp_path: Path):
    done = mlcl("fit", *training("pack", place), "--data.num_workers", workers)
    assert done.status == 0, done.err
    assert_same_training(place / "runs/run/version_0", tmp_path / "runs/pack/version_0")
    lines = (tmp_path / "runs/pack/version_0/bad_images.csv").read_text()
    assert lines.count("05.jpg") == lines.count("40.jpg") == 1


@pytest.mark.parametrize(
    ("ranks", "workers"),
    [(2, 0), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((3, 0), (2, 1), (3, 1)))],
)
def test_several_ranks_train_from_a_pack_as_from_files(ranks, workers, place: Path, tmp_path: Path):
    for source in ("files", "pack"):
        told = *training(source, place), "--data.num_workers", str(workers)
        statuses, err = run_ranks(1, ranks, "fit", *told, cwd=tmp_path)
        assert {*statuses} == {0}, err
    assert_same_training(*(tmp_path / "runs" / source / "version_0" for source in ("files", "pack")))


@pytest.mark.parametrize(
    ("devices", "words"), [("1", "--trainer.devices auto --trainer.num_nodes 1"), ("2", "`num_nodes=1`")]
)
def test_numbers_that_are_not_those_of_torchrun_are_refused(devices, words, place: Path, mlcl, monkeypatch):
    """Of four processes, each would compute everything with one device, and write a result of its own."""
    ranks = {"RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "GROUP_WORLD_SIZE": 2}
    for name, value in ranks.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    before = {*(place / "runs/run/version_0").iterdir()}
    done = mlcl("test", *evaluation("files", place), "--trainer.devices", devices)
    assert done.status == 1 and done.err.splitlines()[-1].startswith("mlcl: ") and "Traceback" not in done.err
    assert words in done.err
    assert {*(place / "runs/run/version_0").iterdir()} == before


def test_tasks_of_slurm_that_compute_the_same_are_refused(place: Path, mlcl, monkeypatch):
    for name, value in {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_PROCID": 0, "SLURM_LOCALID": 0}.items():
        monkeypatch.setenv(name, str(value))
    done = mlcl("test", *evaluation("files", place))
    assert done.status == 1 and "2 processes were started, but" in done.err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(not can_hide_folders(), reason="needs Linux, and the right to mount in a namespace")
def test_nodes_without_a_shared_disk(place: Path, tmp_path: Path):
    """The first one writes the results; it hands the best checkpoint on, and knows what others could not read."""
    home = tmp_path / "disk"
    flags = [*training("files", place), "--trainer.default_root_dir", str(home)]
    status, out, err = run_nodes(2, 2, "fit", *flags, cwd=tmp_path, own=home)
    assert status == [0, 0], err
    assert out.count("results in") == 1
    first, second = (tmp_path / f"disk-{node}" for node in (0, 1))
    summary = json.loads((first / "runs/files/version_0/metrics.json").read_text())
    assert summary["N"] == TESTED and summary["skipped_images"] == 1
    listed = (first / "runs/files/version_0/bad_images.csv").read_text()
    assert listed.count("05.jpg") == listed.count("40.jpg") == 1
    assert {path.name for path in second.rglob("*") if path.is_file()} <= {"bad_images.csv"}
