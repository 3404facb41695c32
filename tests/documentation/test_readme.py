"""README and docs: every command and every Python block is run on tiny data, every link leads somewhere."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.object_trees import write_open_images, write_roboflow
from support.running import REPOSITORY, tiny_data

from mlcl.__main__ import main
from mlcl.cli import verbs
from mlcl.data import Demo

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXT = {path.relative_to(REPOSITORY): path.read_text() for path in [*PAGES, REPOSITORY / "CONTRIBUTING.md"]}
PYTHON = re.findall(r"```python\n(.*?)```", "".join(TEXT.values()), re.DOTALL)
TINY = [
    *("--data.image_size", "32", "--data.batch_size", "4", "--data.num_workers", "0"),
    *("--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
]

OBJECTS = {"COCOJSON": write_roboflow, "OpenImages": write_open_images}


def commands() -> list[tuple[str, ...]]:
    """Every command of the bash blocks and every ``mlcl`` command in a sentence, once; trainings first."""
    lines = [line for text in TEXT.values() for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
             for line in block.splitlines()]  # fmt: skip
    lines += [line for text in TEXT.values() for line in re.findall(r"`(mlcl (?:fit|test|validate) [^`]+)`", text)]
    words = [tuple(shlex.split(line, comments=True)) for line in lines]
    # The same options in another order are the same command; only of configs a later one goes over an earlier one.
    once: dict[tuple, tuple[str, ...]] = {}
    for w in words:
        once.setdefault((tuple(word for word in w if word.endswith(".yaml")), *sorted(w)), w)
    return sorted((w for w in once.values() if w), key=lambda w: "fit" not in w)


COMMANDS = commands()
MLCL = [words[1:] for words in COMMANDS if words[0] == "mlcl"]
IN_README = {tuple(sorted(shlex.split(line, comments=True))) for line in README.read_text().splitlines()
             if line.startswith("mlcl ")}  # fmt: skip
# Of the other pages' commands the trainings, the runs of those, and what else takes seconds.
COSTLY = ("fit", "runs/packed", "WandbLogger", "--report")
SLOW = [w for w in MLCL if tuple(sorted(("mlcl", *w))) not in IN_README and not {*COSTLY}.isdisjoint(w)]


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 180 and len(IN_README) >= 15
    assert len(MLCL) >= 25 and {("make", "demo"), ("make", "test")} <= set(COMMANDS)


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_links_lead_somewhere(page):
    for address in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if address.startswith("https://"):
            continue
        name, _, anchor = address.partition("#")
        target = (REPOSITORY / page.parent / name).resolve() if name else REPOSITORY / page
        assert target.exists(), address
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, address


def test_pictures_are_shown_and_small():
    shown = set(re.findall(r"!\[[^]]+\]\((?:docs/)?(pictures/[^)]+)\)", "".join(TEXT.values())))
    stored = {f"pictures/{path.name}": path for path in (REPOSITORY / "docs" / "pictures").iterdir()}
    assert shown == set(stored) and len(stored) >= 4
    assert all(path.stat().st_size < 200_000 for path in stored.values())


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] != "mlcl"], ids=" ".join)
def test_the_other_commands_name_what_exists(words, mlcl, monkeypatch):
    """Make targets, scripts and sweeps are there; what a launcher starts is a training that could begin."""
    monkeypatch.chdir(REPOSITORY)
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], check=True, capture_output=True)
    elif "mlcl" in words:
        outcome = mlcl(*words[words.index("mlcl") + 1 :], "--print_config")
        nodes = 1 if words[0] == "torchrun" else 2  # torchrun tells its own number to every process
        assert outcome.status == 0 and f"num_nodes: {nodes}" in outcome.out
    elif words[0] in ("python", "wandb") and "ID" not in words:
        assert next(Path(word) for word in words if "/" in word).is_file()
    else:
        assert words in {("wandb", "agent", "ID")}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The folder in which all commands are run: configs, the loss of the README, the pictures of its Python block."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    (folder / "spread.py").write_text(next(block for block in PYTHON if "class Spread" in block))
    words = dict.fromkeys(word for name in Demo(root="data/demo").classes for word in name.split())
    lines = [f"{word} {number}.5 -1e-2 0.25" for number, word in enumerate(words)]
    (folder / "glove.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:  # before the command that reads what it writes
        patch.chdir(folder)
        exec(next(block for block in PYTHON if "glove.txt" in block), {})
    return folder


def data_for(words: tuple[str, ...], place: Path) -> list[str]:
    if "CSVDataset" in words or "runs/mine" in words:
        from support.trees import write_table

        rows = [f"{i}.jpg,{'cat;dog' if i % 3 else ''},{s}" for i, s in enumerate(["train"] * 6 + ["test"] * 3)]
        write_table(place / "csv", ["image,labels,split", *rows])
        write_table(
            place / "csv", ["image,labels", *(f"{i}.jpg,{'cat;dog' if i % 2 else ''}" for i in range(4))], "new.csv"
        )
        return ["--data.root", str(place / "csv")]
    for kind, write in OBJECTS.items():
        if kind in words:
            return ["--data.root", str((place / kind) if (place / kind).exists() else write(place / kind))]
    if "PACK" in words:
        if not (place / "PACK").exists():
            files = tiny_data("COCO2014", place / "packed")
            chosen = ["--data", "COCO2014", *files, "--data.num_workers", "0", "--data.val_fraction", "0.25"]
            assert main(["pack", *chosen, "--output", str(place / "PACK")]) == 0
        return ["--data.root", str(place / "PACK")]
    stem = next((Path(word).stem for word in words if word.endswith(".yaml")), "demo")
    kind = {"coco": "COCO2014", "voc2007": "VOC2007", "voc2012": "VOC2012"}.get(stem, "Demo")
    if not (place / kind).exists() or kind == "Demo":
        return tiny_data(kind, place / kind)
    return ["--data.root", str(place / kind)]


def line_of(words: tuple[str, ...], place: Path) -> list[str]:
    """The command on tiny data, in ``place``."""
    flags = data_for(words, place)
    given = {
        "DIR": flags[flags.index("--data.root") + 1],
        "PACK": str(place / "PACK"),
        "IMAGES": str(place / "Demo" / "val2014"),
        "WEIGHTS": str(place / "weights.pth"),
    }
    if "WEIGHTS" in words:
        import timm
        import torch

        torch.save(timm.create_model("mobilenetv1_100").state_dict(), given["WEIGHTS"])
    line = [given.get(word, word) for word in words]
    if "--seeds" in line:
        line[line.index("--seeds") + 1] = "1"  # each is a training; cli/test_seeds.py has two
    if "--guarantee" in line:
        line[line.index("recall=0.9")] = "recall=0.5"  # two images are held out here
    if words[0] == "fit" and "--help" not in words:
        line += [*flags, *TINY]
        if any("mulcon" in word or "sadcl" in word for word in words):
            line += ["--model.network.head.dim", "16"]  # the published widths are for a ResNet-101
        if any("recipes" in word for word in words):
            line += ["--model.network.head.ffn", "32", "--trainer.precision", "32-true"]
        if not any("demo" in word or "mobilenet" in word for word in words):
            line += ["--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"]
    if "Logger" in " ".join(words) or "loggers" in " ".join(words):
        line += ["--log_images", "2"]
    return line


def make_first_run(words: tuple[str, ...], place: Path) -> None:
    """The run of the first command, for one that is tested without those before it."""
    if "runs/demo" in " ".join(words) and not (place / "runs" / "demo").exists():
        assert main(line_of(MLCL[0], place)) == 0


@pytest.mark.parametrize("words", [pytest.param(w, marks=[pytest.mark.slow] * (w in SLOW)) for w in MLCL], ids=" ".join)
def test_it_runs(words, place: Path, mlcl, monkeypatch):
    monkeypatch.chdir(place)
    make_first_run(words, place)
    outcome = mlcl(*line_of(words, place))
    assert outcome.status == 0, outcome.err
    if words[0] not in verbs.VERBS and "--help" not in words:
        assert "results in" in outcome.out


@pytest.mark.parametrize("words", SLOW, ids=" ".join)
def test_a_slow_one_could_begin(words, place: Path, mlcl, monkeypatch):
    """Its options exist and take these values; of the run of another slow one, that of the first command is taken."""
    monkeypatch.chdir(place)
    make_first_run(("runs/demo", *words), place)
    line = [{"runs/packed": "runs/demo", "PACK": str(place / "Demo"), "5": "1"}.get(word, word) for word in words]
    outcome = mlcl(*line, *([] if words[0] in verbs.VERBS else ["--print_config"]))
    assert outcome.status == 0, outcome.err
    assert words[0] in verbs.VERBS or outcome.out.count("\n") > 50


def test_the_pictures_can_be_drawn(place: Path, monkeypatch, tmp_path):
    """All but the report's, which needs a browser; from the runs that the commands above have left."""
    monkeypatch.chdir(place)
    spec = importlib.util.spec_from_file_location("make_pictures", REPOSITORY / "docs" / "make_pictures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "BCE", "demo")
    monkeypatch.setattr(script, "CONTRASTIVE", "demo_asl")
    monkeypatch.setattr(script, "BROWSERS", ("no-browser",))
    monkeypatch.setattr(sys, "argv", ["make_pictures.py", "--output", str(tmp_path)])
    assert script.main() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"flow.png", "attention.jpg", "embeddings.png"}


def test_the_model_in_python_runs(place: Path, monkeypatch):
    """On the run that the commands above have left."""
    monkeypatch.chdir(place)
    for name, image in zip(
        ("street.jpg", "garden.png"), sorted((place / "Demo" / "val2014").glob("*.jpg")), strict=False
    ):
        (place / name).write_bytes(image.read_bytes())
    names: dict = {}
    exec(next(block for block in PYTHON if "mlcl.load(" in block), names)
    assert len(names["out"].labels) == 2 and names["out"].scores.shape == (2, 12)


def test_the_loss_in_python_runs():
    import torch

    names = {"embeddings": torch.randn(4, 2, 5, 3), "targets": torch.ones(4, 5, dtype=torch.long)}
    exec(next(block for block in PYTHON if "LabelContrastiveLoss(" in block), names)
    assert names["value"].isfinite()


def test_every_python_block_is_run():
    """By one of the tests above."""
    assert len(PYTHON) == 4
