"""Every command of the README is run, on tiny data; every make target in it exists."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from support.running import REPOSITORY, tiny_data

from mlcl.cli import verbs

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
INLINE = [text.split() for text in re.findall(r"`(mlcl (?:fit|test|validate) [^`]+)`", README)]
MLCL = [words[1:] for words in [*COMMANDS, *INLINE] if words and words[0] == "mlcl"]
TINY = [
    *("--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"),
    *(
        "--trainer.check_val_every_n_epoch",
        "1",
        "--trainer.max_epochs",
        "2",
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "1",
    ),
]


def test_they_are_found():
    assert len(MLCL) >= 10 and ["make", "demo"] in COMMANDS and ["make", "test"] in COMMANDS


def test_make_targets_exist():
    for words in COMMANDS:
        if words and words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=REPOSITORY, check=True, capture_output=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder as the README assumes it: configs, the loss of its last section, an earlier run of the demo."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    (folder / "spread.py").write_text(next(block for block in PYTHON if "class Spread" in block))
    return folder


def data_for(words: list[str], place: Path) -> list[str]:
    if "CSVDataset" in words:
        from support.trees import write_table

        rows = ["image,labels,split", *(f"{i}.jpg,cat;dog,{s}" for i, s in enumerate(["train"] * 6 + ["test"] * 3))]
        write_table(place / "csv", rows)
        return ["--data.root", str(place / "csv")]
    stem = next((Path(word).stem for word in words if word.endswith(".yaml")), "demo")
    kind = {"coco": "COCO2014", "voc2007": "VOC2007", "voc2012": "VOC2012"}.get(stem, "Demo")
    folder = place / kind
    if not folder.exists() or kind == "Demo":
        return tiny_data(kind, folder)
    return ["--data.root", str(folder)]


def test_the_loss_in_python_runs():
    import torch

    names = {"embeddings": torch.randn(4, 2, 5, 3), "targets": torch.ones(4, 5, dtype=torch.long)}
    exec(next(block for block in PYTHON if "LabelContrastiveLoss(" in block), names)
    assert names["value"].isfinite()


def test_the_model_in_python_runs(place: Path, mlcl, monkeypatch):
    """On a run of its own, whatever was run before."""
    flags = [*tiny_data("Demo", place / "Demo"), *TINY]
    monkeypatch.chdir(place)
    assert mlcl("fit", "--config", "configs/demo.yaml", "--name", "python", *flags).status == 0
    first, second = sorted((place / "Demo" / "val2014").glob("*.jpg"))[:2]
    (place / "street.jpg").write_bytes(first.read_bytes())
    (place / "garden.png").write_bytes(second.read_bytes())
    names: dict = {}
    exec(next(block for block in PYTHON if "mlcl.load(" in block).replace("runs/demo/", "runs/python/"), names)
    assert len(names["out"].labels) == 2 and names["out"].scores.shape == (2, 12)


@pytest.mark.parametrize("words", MLCL, ids=" ".join)
def test_it_runs(words, place: Path, mlcl, monkeypatch):
    monkeypatch.chdir(place)
    if words == ["fit", "--help"]:
        outcome = mlcl(*words)
        assert outcome.status == 0 and "--data.root" in outcome.out
        return
    if words[0] in verbs.VERBS:
        given = [str(place / "Demo" / "val2014") if word == "IMAGES" else word for word in words]
        if "DIR" in given:
            flags = data_for(words, place)
            given[given.index("DIR")] = flags[flags.index("--data.root") + 1]
        outcome = mlcl(*given)
        assert outcome.status == 0, outcome.err
        return
    weights = place / "weights.pth"
    if "WEIGHTS" in words:
        import timm
        import torch

        torch.save(timm.create_model("mobilenetv1_100").state_dict(), weights)
    flags = data_for(words, place) if words[0] == "fit" else []
    given = [str(weights) if word == "WEIGHTS" else word for word in words]
    if "DIR" in given:
        given[given.index("DIR")] = flags[flags.index("--data.root") + 1]
    tiny = TINY if words[0] == "fit" else []
    if any("mulcon" in w or "sadcl" in w for w in words):
        tiny = [*tiny, "--model.network.head.dim", "16"]  # the published widths are for a ResNet-101
    if any("recipes" in w for w in words):
        tiny = [*tiny, "--model.network.head.ffn", "32", "--trainer.precision", "32-true"]
    if words[0] == "fit" and not any("demo" in w or "mobilenet" in w for w in words):
        tiny = [*tiny, "--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"]
    outcome = mlcl(*given, *flags, *tiny)
    assert outcome.status == 0, outcome.err
    assert "results in" in outcome.out
