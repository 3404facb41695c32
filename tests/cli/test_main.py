"""The entry point: what is answered before torch is imported, and that every mistake is one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.running import REPOSITORY, at_once

from mlcl import __version__
from mlcl.__main__ import _one_line
from mlcl.cli import help
from mlcl.errors import MlclError

DEMO = str(REPOSITORY / "configs" / "demo.yaml")


def test_help_and_version(tmp_path):
    *general, version = at_once([[], ["--help"], ["-h"], ["help"], ["--version"]], tmp_path)
    assert len({answer.out for answer in general}) == 1 and general[0].status == 0
    assert all(word in general[0].out for word in ("fit", "validate", "test", "usage", "examples"))
    assert version.out == f"mlcl {__version__}\n"
    for verb, answer in zip(help.VERBS, at_once([[verb, "--help"] for verb in help.VERBS], tmp_path), strict=True):
        assert f"usage: mlcl {verb}" in answer.out and "--ckpt_path" in answer.out
        assert max(map(len, answer.out.splitlines())) <= 110


def test_the_flags_in_the_help_are_true(mlcl, demo):
    """Each one is accepted with the value that the help shows, or one of its kind."""
    values = {
        "--data": "Demo", "--model.optimizer": "SGD", "--model.schedule": "OneCycle", "--data.root": "x",
        "--model.network.backbone": "resnet18", "--model.network.weights": "w.pth", "--model.init_from": "x.ckpt",
        "--model.network.head": "GlobalPool", "--model.classification_loss": "ZLPRLoss", "--name": "x",
        "--model.embedding_loss": "null", "--import": "json",
    }  # fmt: skip
    shown = re.findall(r"(--[a-z_.]+)(?: ('.*?'|[\d.]+|\S+))?", help.of("fit"))
    flags = {flag: values.get(flag, value.strip("'")) for flag, value in shown}
    for skipped in ("--config", "--ckpt_path", "--print_config", "--help", "--help_all", "--data.help"):
        flags.pop(skipped, None)
    flags.pop("--model.network.head.help"), flags.pop("--KEY", None)
    assert (
        flags.pop("--seeds") == "5" and flags.pop("--learning_rates") == "[0.1,0.01]"
    )  # each is several command lines
    assert len(flags) > 20
    outcome = mlcl("fit", *demo, *(part for pair in flags.items() for part in pair), "--print_config")
    assert outcome.status == 0, outcome.err
    for what in (["--data.help", "Demo"], ["--model.network.head.help", "SemanticAttention"], ["--help_all"]):
        outcome = mlcl("fit", *what)
        assert outcome.status == 0 and len(outcome.out) > 300, outcome.err


AT_ONCE = [
    (["fti"], "'fti' (did you mean fit?); verbs: fit, validate, test, predict, calibrate, export, convert, report,"),
    (["fit", "--modle.network.head", "X"], "unknown option --modle.network.head (did you mean --model?)"),
    (["fit", "--optimizer", "SGD"], "unknown option --optimizer (did you mean --model.optimizer?)"),
    (["fit", "--lr=0.1"], "unknown option --lr (did you mean --model.optimizer.lr?)"),
    (["fit", "--learning-rate", "0.1"], "(did you mean --model.optimizer.lr?)"),
    (["fit", "--optimizer.momentum", "0.9"], "(did you mean --model.optimizer.momentum?)"),
    (["fit", "--epochs", "3"], "unknown option --epochs (did you mean --trainer.max_epochs?)"),
    (["fit", "--max-epochs", "3"], "(did you mean --trainer.max_epochs?)"),
    (["fit", "--batch_size", "3"], "unknown option --batch_size (did you mean --data.batch_size?)"),
    (["fit", "--network.head", "CSRA"], "(did you mean --model.network.head?)"),
    (["test", "--seed", "3"], "unknown option --seed (did you mean --seed_everything?)"),
    (["validate", "--zzz", "3"], "unknown option --zzz\n"),
    (["fit", "--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
    (["fit", "--config=nowhere.yaml"], "--config nowhere.yaml: no such file"),
    (["test", "--ckpt_path", "nowhere.ckpt"], "--ckpt_path nowhere.ckpt: no such file; give a checkpoint, or last"),
    (["fit", "--ckpt_path", "."], "--ckpt_path . is a folder; give the checkpoint to continue from, or last"),
    (["test"], "mlcl test needs --ckpt_path: a checkpoint, or last"),
    (["fit", "--config"], "--config needs a value"),
    (["fit"], "mlcl fit needs --config FILE (or --data CLASS and more); mlcl fit --help shows the options"),
    (["fit", "configs/demo.yaml"], "unexpected 'configs/demo.yaml'; did you mean --config configs/demo.yaml?"),
]


def test_mistakes_that_need_no_class_are_answered_at_once(tmp_path):
    answers = at_once([arguments for arguments, _ in AT_ONCE], tmp_path)
    for (arguments, words), answer in zip(AT_ONCE, answers, strict=True):
        assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1), (arguments, answer)
        assert answer.err.startswith("mlcl: ") and words in answer.err, (arguments, answer)


MISTAKES = [
    (["--data", "Nope"], 2, "--data: unknown class 'Nope'; known: COCO2014, COCOJSON"),
    (["--model.network.head", "Nope"], 2, "--model.network.head: unknown class 'Nope'; known: CSRA, GlobalPool, Label"),
    (["--model.classification_loss", "Nope"], 2, "--model.classification_loss: unknown class 'Nope'; known: Asym"),
    (["--model.embedding_loss", "no_file.Loss"], 2, "unknown class 'no_file.Loss' (No module named 'no_file')"),
    (["--model.network.head.dmi", "3"], 2, "--model.network.head.dmi: unknown option (did you mean dim?)"),
    (["--data.batch_sise", "3"], 2, "--data.batch_sise: unknown option (did you mean batch_size?)"),
    (["--trainer.max_epohcs", "3"], 2, "--trainer.max_epohcs: unknown option (did you mean max_epochs?)"),
    (["--trainer.lr", "3"], 2, "--trainer.lr: unknown option (did you mean --model.optimizer.lr?)"),
    (["--model.batch_size", "3"], 2, "--model.batch_size: unknown option (did you mean --data.batch_size?)"),
    (["--data.batch_size", "many"], 2, "--data.batch_size: expected an integer, got 'many'"),
    (["--trainer.max_epochs", "1.5"], 2, "--trainer.max_epochs: expected an integer, got '1.5'"),
    (["--model.schedule.warmup_share", "x"], 2, "--model.schedule.warmup_share: expected a number, got 'x'"),
    (["--data.batch_size", "0"], 1, "data.batch_size is 0, it must be at least 1"),
    (["--data.augment", "cut"], 1, "data.augment is 'cut'; known: none, flip, csra"),
    (["--model.network.backbone", "test_resnt"], 1, "timm has no model 'test_resnt' (model.network.backbone)"),
    (["--model.network.weights", "nope.pth"], 1, "nope.pth: no such weights file (model.network.weights)"),
    (["--model.lr_mult", "{bone: 0.1}"], 1, "model.lr_mult names 'bone', which is no part"),
    (["--model.init_from", "nope.ckpt"], 1, "nope.ckpt: no such checkpoint"),
    (["--data", "VOC2007", "--data.root", "nowhere"], 1, "nowhere/VOCdevkit/VOC2007/ImageSets/Main/aeroplane_trainval"),
    (["--data", "COCO2014", "--data.root", "nowhere"], 1, "nowhere/annotations/instances_train2014.json is missing"),
    (["--data", "CSVDataset", "--data.root", "."], 1, "labels.csv cannot be read"),
    (["--trainer.precision", "nonsense"], 2, "--trainer.precision: expected one of"),
    (["--data.empty_images", "no"], 2, "--data.empty_images: expected one of 'keep', 'drop', got 'no'"),
    (["--ema_decay", "2"], 1, "--ema_decay is 2.0, it must lie between 0 and 1"),
    (["--model.threshold", "7"], 1, "model.threshold is 7.0, it must lie in [0, 1], once or 12 times"),
    (["--name", "../up"], 1, "--name ../up: it must stay inside the folder runs"),
]


@pytest.mark.parametrize(("arguments", "status", "words"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_of_fit_are_one_line(mlcl, demo, arguments, status, words):
    outcome = mlcl("fit", *demo, *arguments)
    last = outcome.err.strip().splitlines()[-1]
    assert outcome.status == status, outcome.err
    assert last.startswith("mlcl: ") and words in last and "Traceback" not in outcome.err
    assert status == 1 or outcome.err.count("\n") == 1
    assert not list(Path().glob("runs/*/*")), "a failed start leaves no run folder"


def test_a_mistake_in_a_config_file_is_found_there(mlcl, demo):
    text = (REPOSITORY / "configs" / "demo.yaml").read_text()
    Path("mine.yaml").write_text(text.replace("batch_size:", "batch_sise:"))
    outcome = mlcl("fit", "--config", "mine.yaml")
    assert (outcome.status, outcome.err) == (
        2,
        "mlcl: mine.yaml: data.batch_sise: unknown option (did you mean batch_size?)\n",
    )


def test_a_csv_without_the_column(mlcl, demo):
    Path("labels.csv").write_text("file,cat\na.jpg,1\n")
    outcome = mlcl("fit", *demo, "--data", "CSVDataset", "--data.root", ".")
    assert outcome.status == 1
    assert outcome.err.strip() == "mlcl: labels.csv has no column 'image'; its columns are file, cat"


def test_an_unreadable_picture_in_a_worker_is_one_line(mlcl, demo, tmp_path: Path):
    (tmp_path / "labels.csv").write_text("image,cat,split\n" + "a.jpg,1,train\na.jpg,0,val\n" * 4)
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    csv = ["--data", "CSVDataset", "--data.root", ".", "--data.val_fraction", "0", "--data.num_workers", "1"]
    outcome = mlcl("fit", *demo, *csv)
    assert outcome.status == 1
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("mlcl: a.jpg: not a picture") and "mlcl check" in last and "--data.on_bad_image skip" in last


def test_a_config_that_is_none_is_named(mlcl):
    for content in ("- a\n- b\n", "a: [", "trainer: [1]\n"):
        Path("mine.yaml").write_text(content)
        outcome = mlcl("fit", "--config", "mine.yaml")
        assert (
            outcome.status == 1 and outcome.err.count("\n") == 1 and outcome.err.startswith("mlcl: --config mine.yaml")
        )


def test_the_whole_message_of_an_error_is_kept():
    text = "mlcl/heads/foo.py cannot be imported: SyntaxError: invalid syntax"
    assert _one_line(MlclError(text)) == text


def test_debug_shows_the_traceback(mlcl, demo, monkeypatch):
    monkeypatch.setenv("MLCL_DEBUG", "1")
    outcome = mlcl("fit", *demo, "--data.batch_size", "0")
    assert outcome.status == 1 and "Traceback" in outcome.err


def test_module_and_console_script_are_the_same():
    script = Path(sys.executable).with_name("mlcl")
    outputs = [
        subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
        for command in ([str(script)], [sys.executable, "-m", "mlcl"])
    ]
    assert outputs[0] == outputs[1]


def test_waiting_threads_leave_their_core_to_others_unless_told_otherwise(mlcl, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert mlcl("validate", "--ckpt_path", "last").status == 1
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert mlcl("validate", "--ckpt_path", "last").status == 1
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("mkdir gone; cd gone; rmdir ../gone; {mlcl} report .", "mlcl: the folder that you are in was removed; cd to"),
        ("{mlcl} report . 2>&-; echo $? >&2", "2"),
        ("{mlcl} report . 2>&1 >&- | tail -1 >&2", "mlcl: .: no scores.npz"),
        ("ulimit -Sn 64; {python} -c '{limit}' >&2", "more than 64: True"),
    ],
    ids=["no folder", "no stderr", "no stdout", "few files"],
)
def test_whatever_started_us(tmp_path: Path, script, words):
    limit = (
        'import resource; from mlcl.__main__ import main; main(["report", "."]); '
        'print("more than 64:", resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64)'
    )
    filled = script.replace("{limit}", limit).replace("{mlcl}", f"{sys.executable} -m mlcl")
    filled = filled.replace("{python}", sys.executable)
    done = subprocess.run(["bash", "-c", filled], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_full_shared_memory_is_named():
    """As torch's loader hands the error on; whether any worker's other error ends in its last line."""
    text = (
        'Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x"\n'
    )
    full = RuntimeError(f"{text}RuntimeError: unable to write to file </torch_1_2_3>: No space left on device (28)\n")
    assert "No space left on device (28); shared memory is full: give /dev/shm more" in _one_line(full)
    said = _one_line(RuntimeError(f"{text}RuntimeError: another\n"))
    assert said == "in a loader's process: RuntimeError: another (MLCL_DEBUG=1 shows where)"
