"""What a start costs, as a ratio to ``import torch``: time to answer, CPU time and memory; and who imports what.

python tests/benchmarks/startup.py [--smoke] [--before CHECKOUT]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
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


def used(arguments: Sequence[str], folder: str, checkout: Path = REPOSITORY) -> tuple[float, float]:
    """CPU seconds, and MB at most, of Python with these arguments and of what it starts, on the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode()[-2000:])
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def work(folder: str, before: Path | None) -> dict[str, Callable[[], tuple[float, float]]]:
    """Commands on a short run of the demo, trained here; with ``before`` also on the code of that checkout."""
    mlcl = ("-m", "mlcl")
    run = ("--ckpt_path", "runs/demo/version_0")
    used([*mlcl, "fit", "--config", DEMO, "--trainer.max_epochs", "2"], folder)
    used([*mlcl, "export", *run, "--format", "onnx", "--output", "model.onnx"], folder)
    image = str(min(Path(folder, "data/demo/val2014").glob("*.jpg")))
    rest = ("--images", image, "--output", "o.csv", "--accelerator", "cpu")
    lines: dict[str, Sequence[str]] = {
        "mlcl predict, one picture, checkpoint": (*mlcl, "predict", *run, *rest),
        "mlcl predict, one picture, model.onnx": (*mlcl, "predict", "--ckpt_path", "model.onnx", *rest),
        "mlcl report": (*mlcl, "report", "runs/demo/version_0", "--output", "r.html"),
        "mlcl fit --print_config": (*mlcl, "fit", "--config", DEMO, "--print_config"),
    }
    steps = {"import torch": lambda: used(["-c", "import torch"], folder)}
    for name, line in lines.items():
        steps[name] = lambda line=line: used(line, folder)
        if before is not None and "onnx" not in name:
            steps[f"{name}, before"] = lambda line=line: used(line, folder, before)
    return steps


def in_turn(
    steps: Mapping[str, Callable[[], tuple[float, float]]], repeats: int, reference: str
) -> dict[str, dict[str, dict[str, float]]]:
    """CPU time and memory of each step, ``repeats`` in turn after one call each: min, median, max, ratio."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            values = step()
            found[name] += [values] if repeat else []
    report: dict[str, dict[str, dict[str, float]]] = {name: {} for name in steps}
    for place, unit in enumerate(("cpu_s", "peak_MB")):
        whole = statistics.median(values[place] for values in found[reference])
        for name, rows in found.items():
            column = [values[place] for values in rows]
            middle = statistics.median(column)
            ratio = middle / whole
            report[name][unit] = {"min": min(column), "median": middle, "max": max(column), "ratio": ratio}
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Time the processes in turn, then look who imports; tables, and runs/bench-startup.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two commands, one repeat: only to see that it works")
    parser.add_argument("--before", type=Path, help="a checkout of other code, to compare CPU time and memory with")
    options = parser.parse_args(argv)
    smoke = options.smoke
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
    with tempfile.TemporaryDirectory() as folder:
        reference_alone = {reference: lambda: used(["-c", reference], folder)}
        spent = in_turn(reference_alone if smoke else work(folder, options.before), repeats, reference)
    print(f"\nCPU time and peak memory of a process, median (min to max) of {repeats} in turn")
    for name, row in spent.items():
        parts = [
            f"{part['median']:7.2f} ({part['min']:.2f} to {part['max']:.2f}) {unit} x {part['ratio']:.2f}"
            for unit, part in (("s", row["cpu_s"]), ("MB", row["peak_MB"]))
        ]
        print(f"  {name:46} {'   '.join(parts)}")
    processes = rounds.summary(seconds, reference)
    rounds.save("startup", {"processes": processes, "work": spent, "imports": imports}, smoke)


if __name__ == "__main__":
    main()
