"""What others hand us (names, configs, checkpoints) runs no code and harms no reader."""

import csv
import hashlib
import http.server
import io
import os
import pickle
import resource
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from support.checkpoints import altered
from support.running import REPOSITORY
from support.trees import write_voc
from torchvision.datasets.voc import DATASET_YEAR_DICT

from mlcl.backbones.backbone import create_backbone
from mlcl.data import COCO2014, VOC2007, coco
from mlcl.data.download import fetch
from mlcl.errors import MlclError, cell
from mlcl.inference.writers import CSVWriter, Row
from mlcl.metrics import MultiLabelMetrics
from mlcl.runs.result_files import per_class

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_a_csv_is_a_formula(text, tmp_path):
    writer = CSVWriter(tmp_path / "p.csv", [text, "cat"])
    row = writer.text(Row(text, [text, "cat"], [0.9, 0.2], {}))
    (tmp_path / "p.csv").write_text(writer.head() + row, newline="")
    metrics = MultiLabelMetrics(num_classes=2)
    metrics.update(torch.randn(4, 2), torch.randint(0, 2, (4, 2)))
    metrics.compute()
    (tmp_path / "c.csv").write_text(per_class(metrics.evaluation, [text, "cat"], torch.zeros(2)), newline="")
    for name in ("p.csv", "c.csv"):
        with (tmp_path / name).open(newline="") as file:
            rows = list(csv.reader(file))
        texts = [value for row in rows for value in row]
        assert ("\\r=1" if text == "\r=1" else f"'{text}") in texts
        assert "cat" in texts
        assert not [value for value in texts if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]


def test_numbers_and_ordinary_names_stay_as_they_are():
    assert [cell(text) for text in ("dining table", "a=b", "val2014/1.jpg", "")] == [
        "dining table", "a=b", "val2014/1.jpg", "",
    ]  # fmt: skip


PROCESS = {"class_path": "subprocess.Popen", "init_args": {"args": "touch pwned"}}
SHELL = {"class_path": "os.system", "init_args": {"command": "touch pwned"}}
ATTACKS = {
    "yaml tag": "!!python/object/apply:os.system ['touch pwned']",
    "yaml name": "!!python/name:os.system",
    "a process for a logger": {"trainer": {"logger": PROCESS}},
    "a process for a callback": {"trainer": {"callbacks": [PROCESS]}},
    "a process for a loss": {"model": {"classification_loss": PROCESS}},
    "a process for an optimizer": {"model": {"optimizer": PROCESS}},
    "a process for a dataset": {"data": PROCESS},
    "a shell for a schedule": {"model": {"schedule": SHELL}},
    "a shell as a value": {"model": {"optimizer": "os.system"}},
    "a command in a path": {"ckpt_path": "$(touch pwned)`touch pwned`"},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_config_runs_no_command(mlcl, attack, demo):
    content = ATTACKS[attack]
    text = f"model:\n  init_from: {content}\n" if isinstance(content, str) else yaml.safe_dump(content)
    Path("evil.yaml").write_text(text)
    result = mlcl("fit", "--config", str(REPOSITORY / "configs" / "demo.yaml"), "--config", "evil.yaml")
    assert result.status in (1, 2)
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1, result.err
    assert result.err.startswith("mlcl: ")
    assert not Path("pwned").exists()


HOSTILE = {  # a callback of Lightning's in the record of a checkpoint: its settings, and what the refusal names
    "ModelCheckpoint": ({"dirpath": "victim", "filename": "x"}, "with dirpath 'victim'"),
    "LambdaCallback": ({"on_train_start": "os.abort"}, "with on_train_start 'os.abort'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_continued_run_reaches_nothing_beyond_its_folder(mlcl, trained, name):
    shutil.copytree(trained, "runs/demo/version_0")
    settings, said = HOSTILE[name]
    given = [{"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": settings}]
    run = Path("runs/demo/version_0")
    last = altered(
        run, run / "checkpoints" / "last.ckpt", lambda content, config: config["trainer"].update(callbacks=given)
    )
    outcome = mlcl("fit", "--ckpt_path", last)
    assert outcome.status == 1 and said in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.strip().endswith("if you trust it, add --import lightning.pytorch.callbacks")
    assert not Path("victim").exists()


BEFORE = (
    "ModelCheckpoint{'monitor': None, 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
    "'train_time_interval': None}"
)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("best_model_path", "local://{}/victim"),
        pytest.param("kth_best_model_path", "local::{}/victim", marks=pytest.mark.slow),
        ("best_k_models", "{}/runs/demo/version_0/checkpoints/../../../../victim"),
        pytest.param("last_model_path", "{}/runs/demo/version_0/checkpoints/link/victim", marks=pytest.mark.slow),
    ],
)
def test_a_continued_run_removes_no_file_of_others(mlcl, trained, tmp_path, key, path):
    """Lightning removes what a checkpoint's state calls its former best."""
    shutil.copytree(trained, "runs/demo/version_0")
    Path("victim").touch()
    Path("runs/demo/version_0/checkpoints/link").symlink_to(tmp_path)
    victim, run = path.format(tmp_path), Path("runs/demo/version_0")

    def change(content, config):
        for name, state in content["callbacks"].items():
            if "Checkpoint" in name:
                state[key] = {victim: torch.tensor(-1.0)} if key == "best_k_models" else victim
        if key == "best_model_path":  # as runs of before named it
            content["callbacks"][BEFORE] = content["callbacks"].pop("RunCheckpoint:last")

    outcome = mlcl("fit", "--ckpt_path", altered(run, run / "checkpoints" / "last.ckpt", change))
    assert outcome.status == 1 and f"names {victim}, which is no checkpoint of this run" in outcome.err
    assert Path("victim").is_file() and (run / "checkpoints" / "best.ckpt").is_file()


class _Runs:
    """A pickle that runs a command when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def archive(path: Path, kind: str) -> None:
    """With a member that climbs out of the folder it is unpacked in."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("../pwned", "x")
    elif kind == "tar":
        with tarfile.open(path, "w") as file:
            member = tarfile.TarInfo("../pwned")
            member.size = 1
            file.addfile(member, io.BytesIO(b"x"))
    else:
        path.write_bytes(pickle.dumps(_Runs()))


DOORS = {
    "a checkpoint to test": ["test", "--ckpt_path"],
    "a checkpoint to predict with": ["predict", "--images", ".", "--output", "p.csv", "--ckpt_path"],
    "weights of a backbone": ["fit", "--model.network.weights"],
    "a network to start from": ["fit", "--model.init_from"],
    "a folder of images": ["fit", "--data.root"],
}


@pytest.mark.parametrize(
    ("door", "kind"),
    [*((door, "pickle") for door in DOORS), ("a checkpoint to test", "zip"), ("weights of a backbone", "tar")],
)
def test_a_file_of_another_kind_is_neither_run_nor_unpacked(mlcl, demo, door, kind, tmp_path):
    (tmp_path / "inside").mkdir()
    os.chdir(tmp_path / "inside")
    archive(Path("given"), kind)
    verb, *rest = DOORS[door]
    result = mlcl(verb, *(demo if verb == "fit" else []), *rest, "given")
    assert result.status == 1 and "Traceback" not in result.err
    assert result.err.count("mlcl: ") == 1, result.err
    last = result.err.splitlines()[-1]
    assert last.startswith("mlcl: ") and "given" in last and len(last) < 300, result.err
    assert not list(tmp_path.rglob("pwned"))


@pytest.fixture
def server(tmp_path):
    """Two hosts, as far as one machine has them: the first sends everybody on to the second."""
    weights = tmp_path / "served"
    weights.mkdir()
    second = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=str(weights))
    )

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{second.server_port}{self.path}")
            self.end_headers()

    first = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect)
    threads = [threading.Thread(target=each.serve_forever) for each in (first, second)]
    for thread in threads:
        thread.start()
    yield weights, f"http://127.0.0.1:{first.server_port}", f"http://127.0.0.1:{second.server_port}"
    for each, thread in zip((first, second), threads, strict=True):
        each.shutdown()
        each.server_close()
        thread.join()


@pytest.mark.parametrize("way", ["right", "straight", "redirected"])
def test_downloaded_weights_are_those_of_their_checksum(server, tmp_path, monkeypatch, way):
    """timm's files carry the start of their SHA-256 in their names; whoever sends another file is found out."""
    folder, first, second = server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    state = create_backbone("resnet10t", False, None, {}).state_dict()
    torch.save(state, folder / "made")
    digest = hashlib.sha256((folder / "made").read_bytes()).hexdigest()[:8]
    name = f"net-{digest if way == 'right' else '01234567'}.pth"
    (folder / "made").rename(folder / name)
    url = f"{first if way == 'redirected' else second}/{name}"
    options = {"pretrained_cfg_overlay": {"url": url, "hf_hub_id": None, "num_classes": 0}}
    if way == "right":
        made = create_backbone("resnet10t", True, None, options).state_dict()
        assert all(torch.equal(made[key], value) for key, value in state.items())
        return
    with pytest.raises(MlclError, match="resnet10t cannot be made with its pretrained weights: invalid hash value"):
        create_backbone("resnet10t", True, None, options)
    assert not list((tmp_path / "home").rglob("net-*"))


def test_weights_whose_name_tells_no_checksum_are_taken(server, tmp_path, monkeypatch):
    """torch.hub would take the 300e of timm's I-JEPA files for the start of one."""
    folder, _, second = server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    state = create_backbone("resnet10t", False, None, {}).state_dict()
    torch.save(state, folder / "IN1K-net.14-300e.pth.tar")
    options = {"pretrained_cfg_overlay": {"url": f"{second}/IN1K-net.14-300e.pth.tar", "hf_hub_id": None}}
    made = create_backbone("resnet10t", True, None, options).state_dict()
    assert all(torch.equal(made[key], value) for key, value in state.items())


ARCHIVES = {
    VOC2007: ("VOCtrainval_06-Nov-2007.tar", "tar"),
    COCO2014: ("annotations_trainval2014.zip", "zip"),
}


@pytest.mark.parametrize("dataset", ARCHIVES)
@pytest.mark.parametrize("way", ["straight", "redirected"])
def test_an_archive_of_another_checksum_is_not_unpacked(server, tmp_path, monkeypatch, dataset, way):
    folder, first, second = server
    name, kind = ARCHIVES[dataset]
    archive(folder / name, kind)
    url = f"{first if way == 'redirected' else second}/{name}"
    if dataset is VOC2007:
        monkeypatch.setitem(DATASET_YEAR_DICT, "2007", {**DATASET_YEAR_DICT["2007"], "url": url})
    else:
        monkeypatch.setattr(coco, "_ARCHIVES", ((url, *coco._ARCHIVES[0][1:]),))
    root = tmp_path / "here" / "root"
    with pytest.raises(MlclError, match=f"{name} could not be downloaded .* not the file with the MD5 checksum"):
        dataset(str(root), download=True).prepare_data()
    assert not list(tmp_path.rglob("pwned")) and not list(root.iterdir())


def test_an_archive_of_its_checksum_is_unpacked_from_wherever_it_came(server, tmp_path):
    folder, first, _ = server
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("annotations/x.json", "{}")
        file.writestr("../../pwned", "x")
    root = tmp_path / "here" / "root"
    fetch(f"{first}/a.zip", root, md5_of(folder / "a.zip"), root / "annotations")
    assert (tmp_path / "here/root/annotations/x.json").read_text() == "{}"
    assert [path.parent.name for path in tmp_path.rglob("pwned")] == ["root"]  # zipfile's own rule


def md5_of(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def test_an_unpacking_that_broke_off_is_done_again(server, tmp_path):
    folder, _, second = server
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("train2014/1.jpg", "1")
        file.writestr("train2014/2.jpg", "2")
    root = tmp_path / "root"
    (root / "train2014" / "2.jpg").mkdir(parents=True)  # where a file is to be written
    arguments = (f"{second}/a.zip", root, md5_of(folder / "a.zip"), root / "train2014")
    fetch(*arguments)  # somebody's own folder is left alone
    assert not (root / "a.zip").exists()
    (root / ".a.zip.unfinished").touch()
    with pytest.raises(MlclError, match=r"a.zip could not be downloaded to .*2\.jpg"):
        fetch(*arguments)
    assert (root / "train2014/1.jpg").is_file() and (root / ".a.zip.unfinished").exists()
    (root / "train2014/2.jpg").rmdir()
    (folder / "a.zip").unlink()  # it need not come again
    fetch(*arguments)
    assert (root / "train2014/2.jpg").read_text() == "2" and not (root / ".a.zip.unfinished").exists()
    (root / "train2014/2.jpg").unlink()
    fetch(*arguments)
    assert not (root / "train2014/2.jpg").exists()  # nor be unpacked again


def test_a_full_disk_is_not_taken_for_another_file(server, tmp_path):
    folder, _, second = server
    (folder / "a.zip").write_bytes(bytes(100_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(MlclError, match=r"a.zip could not be downloaded to .*File too large"):
            fetch(f"{second}/a.zip", tmp_path / "root", md5_of(folder / "a.zip"), tmp_path / "root" / "train2014")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "root").iterdir())


def test_only_the_archive_that_is_missing_is_fetched(server, tmp_path, monkeypatch):
    """VOC 2007 comes in two; the first may be there without the second."""
    folder, _, second = server
    lists = {"trainval": {"000005": {"cat": 1}}, "test": {"000001": {"dog": 1}}}
    write_voc(tmp_path / "made", lists)
    with tarfile.open(folder / "test.tar", "w") as file:
        file.add(tmp_path / "made" / "VOCdevkit", "VOCdevkit")
    for name, there in (("2007", "gone.tar"), ("2007-test", "test.tar")):
        entry = {"url": f"{second}/{there}", "md5": md5_of(folder / "test.tar")}
        monkeypatch.setitem(DATASET_YEAR_DICT, name, {**DATASET_YEAR_DICT[name], **entry})
    write_voc(tmp_path / "root", {"trainval": lists["trainval"]})
    data = VOC2007(str(tmp_path / "root"), download=True)
    data.prepare_data()
    data.setup()
    assert set(data.splits) == {"train", "val", "test"}
    with pytest.raises(MlclError, match=r"gone\.tar could not be downloaded"):
        VOC2007(str(tmp_path / "nothing"), download=True).prepare_data()


def test_a_download_without_a_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "_ARCHIVES", (("http://127.0.0.1:9/a.zip", "0" * 32, "annotations"),))
    with pytest.raises(MlclError, match=r"a.zip could not be downloaded to .*refused.*; try again, or unpack it there"):
        COCO2014(str(tmp_path / "root"), download=True).prepare_data()
