"""How long a command line takes to answer, as a ratio to ``import torch``; and who imports what on the way.

python tests/benchmarks/startup.py [--smoke]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rounds

REPOSITORY = Path(__file__).parents[2]
DEMO = str(REPOSITORY / "configs/demo.yaml")
REPEATS = 5
SCRIPTS = ("pass", "import torch", "import lightning.pytorch", "import mlcl.losses", "import mlcl.cli.training")
COMMANDS = (
    "--help", "--version", "ftt", "fit --help", "fit --config nowhere.yaml", "fit --modle.name x",
    "test --ckpt_path nowhere.ckpt", "predict --help", "predict --ouput x",
    "predict --ckpt_path nowhere.ckpt --images . --output o.csv", "calibrate --shrink x", "export --ckpt_path no.ckpt",
    "report nowhere", "compare nowhere here", f"fit --config {DEMO} --data.batch_sise 1",
    f"fit --config {DEMO} --print_config",
)  # fmt: skip
QUICK = ("--help", "predict --ouput x")
MODULES = ("mlcl", "mlcl.losses", "mlcl.metrics", "mlcl.module", "mlcl.cli.training", "mlcl.inference")
WATCHED = ("wandb", "matplotlib", "sklearn", "scipy", "pandas", "onnx", "IPython")

# A finder that finds nothing sees every import that is not yet in sys.modules. torch._dynamo only asks whether some
# packages exist; what it does not load afterwards is none of ours to report.
WHO = """
import importlib, json, sys
seen = {}
class Witness:
    def find_spec(self, name, path=None, target=None):
        if name in WATCHED and name not in seen:
            frame, files = sys._getframe(1), []
            while frame is not None:
                files.append(frame.f_code.co_filename)
                frame = frame.f_back
            seen[name] = [file for file in files if not file.startswith('<')]
sys.meta_path.insert(0, Witness())
importlib.import_module(MODULE)
print(json.dumps({name: files for name, files in seen.items() if name in sys.modules}))
"""


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, in a process of its own, output kept."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def imported_by(module: str) -> dict[str, str]:
    """Which of the watched packages an import of ``module`` loads, and the file whose import statement did."""
    script = f"WATCHED, MODULE = {WATCHED!r}, {module!r}" + WHO
    done = run(["-c", script])
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return {name: _short(files[0]) for name, files in json.loads(done.stdout).items()}


def _short(file: str) -> str:
    """A path from its package on."""
    return file.split("site-packages" + os.sep)[-1].removeprefix(str(REPOSITORY) + os.sep)


def main(argv: Sequence[str] | None = None) -> None:
    """Time the processes in turn, then look who imports; a table, and runs/bench-startup.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two commands, one repeat: only to see that it works")
    smoke = parser.parse_args(argv).smoke
    scripts, lines = (("import json",), QUICK) if smoke else (SCRIPTS, COMMANDS)
    modules, repeats, reference = (("mlcl",), 1, "import json") if smoke else (MODULES, REPEATS, "import torch")
    steps: dict[str, Callable[[], object]] = {
        script if "import" in script else f"python -c {script}": lambda script=script: run(["-c", script])
        for script in scripts
    }
    for line in lines:
        name = f"mlcl {line}".replace(DEMO, "demo.yaml")
        steps[name] = lambda line=line: run(["-m", "mlcl", *line.split()])
    seconds = rounds.measure(steps, repeats)
    print(f"wall time of a process, files in the page cache, {repeats} repeats in turn")
    print(rounds.table(seconds, reference, unit="s"))
    imports = {module: imported_by(module) for module in modules}
    print("\nwho imports them first:")
    for module, found in imports.items():
        print(f"  import {module}: {'' if found else 'none'}")
        for name, file in found.items():
            print(f"    {name:12} {file}{'  OURS' if file.startswith('mlcl' + os.sep) else ''}")
    rounds.save("startup", {"processes": rounds.summary(seconds, reference), "imports": imports}, smoke)


if __name__ == "__main__":
    main()
