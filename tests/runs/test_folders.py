"""Run folders: numbered without races, found again, written whole."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlcl.errors import MlclError
from mlcl.runs import folders, provenance, record


def test_numbers_go_on_after_the_highest(tmp_path: Path):
    for name in ("version_0", "version_7", "version_x", "other_9"):
        (tmp_path / name).mkdir()
    assert folders.new_folder(tmp_path).name == "version_8"


def test_many_processes_get_different_folders(tmp_path: Path):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: folders.new_folder(tmp_path / "run"), range(64)))
    assert len(set(made)) == 64


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MlclError, match="no run folder can be made in"):
        folders.new_folder(tmp_path / "file" / "run")


def test_the_newest_last_checkpoint(tmp_path: Path):
    with pytest.raises(MlclError, match="no run under"):
        folders.last_checkpoint(tmp_path)
    for number, age in ((0, 50), (1, 100), (2, 10)):
        file = tmp_path / f"version_{number}" / "checkpoints" / "last.ckpt"
        file.parent.mkdir(parents=True)
        file.write_text("")
        os.utime(file, (age, age))
    assert folders.last_checkpoint(tmp_path).parts[-3] == "version_1"


def test_the_run_of_a_checkpoint(tmp_path: Path):
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert folders.run_of(checkpoint) is None
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("")
    assert folders.run_of(checkpoint) == tmp_path / "run"
    assert folders.run_of(tmp_path / "moved.ckpt") is None


def test_only_an_untouched_folder_is_discarded(tmp_path: Path):
    for number, names in enumerate((["config.yaml", "environment.json"], ["config.yaml", "metrics.csv"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).write_text("")
        folders.discard_if_untouched(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_every_start_is_noted(tmp_path: Path):
    provenance.describe(tmp_path, {"name": "a"})
    provenance.describe(tmp_path, {"name": "b"})
    assert (tmp_path / "config.yaml").read_text() == "name: b\n"
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert len(starts) == 2 and {"started", "command", "versions", "python", "git"} <= set(starts[0])
    provenance.note_environment(tmp_path, data={"train": "a"})
    assert [start.get("data") for start in json.loads((tmp_path / "environment.json").read_text())] == [
        None,
        {"train": "a"},
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "environment.json"}


def test_a_note_is_no_reason_to_stop(tmp_path: Path):
    for text in (None, "", "[]", "3"):
        if text is not None:
            (tmp_path / "environment.json").write_text(text)
        provenance.note_environment(tmp_path, data={})


def test_what_a_kill_left_is_tidied_before_the_run_goes_on(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    kept = ["checkpoints/last.ckpt", "checkpoints/best.ckpt", "config.yaml", ".hidden"]
    for name in (*kept, "checkpoints/.last.ckpt.partial", ".config.1234.partial.yaml"):
        (tmp_path / name).write_text("")
    rows = ["step,train/loss,val/mAP", "0,1.5,", "1,1.25,", "1,,0.5", "2,1.125,", "3,1.0"]  # the last one cut
    (tmp_path / "metrics.csv").write_bytes("\r\n".join(rows).encode())
    folders.tidy(tmp_path, 2)
    assert (tmp_path / "metrics.csv").read_bytes() == ("\r\n".join(rows[:4]) + "\r\n").encode()
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {*kept, "metrics.csv"}
    before = (tmp_path / "metrics.csv").stat().st_mtime_ns
    folders.tidy(tmp_path, 2)
    assert (tmp_path / "metrics.csv").stat().st_mtime_ns == before


def test_a_damaged_checkpoint_names_the_one_beside_it(tmp_path: Path):
    (tmp_path / "last.ckpt").write_text("")
    with pytest.raises(MlclError, match=r"last\.ckpt is no checkpoint, or damaged: [^;]*$"):
        record.load(tmp_path / "last.ckpt")
    (tmp_path / "best.ckpt").write_text("")
    with pytest.raises(MlclError, match=r"damaged: [^;]*; .*best\.ckpt lies beside it$"):
        record.load(tmp_path / "last.ckpt")
    with pytest.raises(MlclError, match="is a folder, no checkpoint"):
        record.load(tmp_path)
