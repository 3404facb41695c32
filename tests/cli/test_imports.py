"""What our own code imports, and when: start-up must not wait for packages that a run does not use."""

import json
import subprocess
import sys

import pytest

# The statements themselves are watched: what torchmetrics, timm or torch have already loaded is in sys.modules.
WATCH = """
import builtins, json, sys
plain, found = builtins.__import__, []
def watched(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.split(".")[0] == "mlcl" and name.split(".")[0] in ("wandb", "matplotlib", "sklearn"):
        found.append(f"{importer} imports {name}")
    return plain(name, globals, locals, fromlist, level)
builtins.__import__ = watched
"""


def in_a_new_process(script: str, *arguments: str, cwd=None) -> str:
    """What the script prints last."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_fit_imports_neither_wandb_nor_matplotlib_nor_sklearn(demo, tmp_path):
    """With the CSV logger, and the test of the best checkpoint; afterwards the watch sees what it should."""
    script = WATCH + (
        "from mlcl.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "result = {'status': status, 'found': [*found], 'wandb': 'wandb' in sys.modules}\n"
        "import mlcl.viz\n"
        "print(json.dumps({**result, 'watched': any('mlcl.viz imports matplotlib' in each for each in found)}))"
    )
    short = [
        *("--trainer.max_epochs", "1"),
        *(f"--trainer.limit_{split}_batches=1" for split in ("train", "val", "test")),
    ]
    out = in_a_new_process(script, "fit", *demo, *short, cwd=tmp_path)
    assert json.loads(out) == {"status": 0, "found": [], "wandb": False, "watched": True}
    assert list(tmp_path.glob("runs/demo/version_0/metrics.csv"))


def test_help_and_mistakes_need_the_standard_library_only(tmp_path):
    """Not torch, and nothing else that is installed; what was loaded before is the interpreter's own."""
    script = (
        "import contextlib, io, sys; before = set(sys.modules)\n"
        "from mlcl.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    for line in sys.argv[1:]: main(line.split())\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(loaded - sys.stdlib_module_names))"
    )
    lines = ["--help", "fit --help", "predict --help", "fit --modle.x 1", "compare a --bse b", "check --data"]
    lines += ["pack --help", "pack --data Demo --output test_imports.py --quality 8"]
    assert in_a_new_process(script, *lines, cwd=tmp_path) == "['mlcl']"


OF_A_TRAINING = ["lightning", "torchmetrics", "torch._dynamo", "sklearn", "pandas", "wandb", "fsspec", "s3fs"]


@pytest.mark.slow
def test_predict_load_and_report_import_nothing_of_a_training(trained, demo_root, tmp_path):
    """One after the other in one process; what each of them needs is there."""
    script = (
        "import json, sys\n"
        "from mlcl.__main__ import main\n"
        "unused, *command = json.loads(sys.argv[1])\n"
        "watched = [*unused, 'matplotlib', 'rich', 'torch']\n"
        "status, found = [main(command)], [[name for name in watched if name in sys.modules]]\n"
        "import mlcl\n"
        "mlcl.load(command[2])\n"
        "status.append(main(['report', command[2], '--output', 'r.html']))\n"
        "found.append([name for name in watched if name in sys.modules])\n"
        "print(json.dumps([status, found]))"
    )
    predict = ["predict", "--ckpt_path", trained, "--images", demo_root / "val2014", "--output", "o.csv"]
    given = json.dumps([OF_A_TRAINING, *map(str, predict), "--accelerator", "cpu"])
    found = json.loads(in_a_new_process(script, given, cwd=tmp_path))
    assert found == [
        [0, 0],
        [["torch"], ["sklearn", "matplotlib", "rich", "torch"]],
    ]  # rich by way of sklearn
