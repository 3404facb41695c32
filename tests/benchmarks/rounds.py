"""What the benchmarks share: callables run in turn, their times as ratios to a reference, a table and a JSON file.

Absolute times differ between machines and hours; a ratio between two formulations that ran in turn in one process
hardly does. So every number here has its reference in the same run.
"""

import datetime
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Seconds = dict[str, list[float]]

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would tell its own stages between the lines


def measure(steps: Mapping[str, Callable[[], object]], repeats: int) -> Seconds:
    """Seconds of every step: one call each to warm up, then ``repeats`` rounds in which each runs once."""
    for step in steps.values():
        step()
    seconds: Seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: Mapping[str, list[float]], reference: str) -> dict[str, dict]:
    """Of every name: min, median, max, and how many times as long as the reference its median is."""
    whole = statistics.median(seconds[reference])
    return {
        name: {
            "seconds_min_median_max": [min(times), statistics.median(times), max(times)],
            "times_as_long": statistics.median(times) / whole,
        }
        for name, times in seconds.items()
    }


def table(seconds: Mapping[str, list[float]], reference: str, unit: str = "ms", per: float = 1) -> str:
    """A line per name: min / median / max per ``per`` things done in a call, and the ratio to the reference.

    Args:
        seconds: what :func:`measure` returns.
        reference: the name that is 1.00.
        unit: ``"s"``, ``"ms"``, ``"us"``, or ``"1/s"``: how many things a second (median alone tells which is faster).
        per: things that one call does, such as the images of a batch.
    """
    scale = {"s": 1.0, "ms": 1e3, "us": 1e6, "1/s": 0.0}[unit]
    width = max(map(len, seconds))
    lines = [f"{'':{width}}  {'min':>9} {'median':>9} {'max':>9} {unit:>4}   {'faster' if not scale else 'time'}"]
    for name, row in summary(seconds, reference).items():
        times = row["seconds_min_median_max"]
        low, middle, high = [s * scale / per for s in times] if scale else [per / s for s in reversed(times)]
        ratio = row["times_as_long"] if scale else 1 / row["times_as_long"]
        mark = "  reference" if name == reference else ""
        lines.append(f"{name:{width}}  {low:9.4g} {middle:9.4g} {high:9.4g}       x {ratio:.3g}{mark}")
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """Where and when a report was made."""
    import torch  # not above: what times processes need not wait for it

    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def save(name: str, report: object, smoke: bool = False) -> Path:
    """Write ``runs/bench-<name>.json`` (``smoke-<name>.json``): the report, and the machine it is of."""
    path = Path("runs", f"{'smoke' if smoke else 'bench'}-{name}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "report": report}, indent=2) + "\n")
    return path


def peak_bytes(step: Callable[[], object]) -> int:
    """What torch's CPU allocator held at most during a call, in bytes above what it held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["args"]["Ev Idx"])
    return max(itertools.accumulate((e["args"]["Bytes"] for e in memory), initial=0))


def available_bytes() -> int:
    """What memory the machine has left."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
