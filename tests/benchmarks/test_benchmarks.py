"""Every benchmark runs in its smallest mode and leaves its JSON; none of them times anything here."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.running import REPOSITORY

FOLDER = REPOSITORY / "tests" / "benchmarks"
BENCHMARKS = [
    file.stem for file in sorted(FOLDER.glob("*.py")) if file != Path(__file__) and "--smoke" in file.read_text()
]


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """As ``python tests/benchmarks/<name>.py``, in this process."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "gpu"])
def test_smoke(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(name, monkeypatch, "--smoke")
    written = json.loads(Path("runs", f"smoke-{name}.json").read_text())
    assert {"date", "cpu", "threads", "torch"} <= {*written["machine"]} and written["report"]
    assert len(capsys.readouterr().out.splitlines()) > 3
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "the committed plot is not drawn again"


def test_they_are_all_here_and_make_runs_them():
    assert {"gpu", "startup", "step", "curve", "heads", "losses"} <= {*BENCHMARKS}
    makefile = (REPOSITORY / "Makefile").read_text()
    assert all(name in makefile for name in BENCHMARKS)


@pytest.mark.slow
def test_gpu_benchmark_on_a_cpu(tmp_path):
    """In a process of its own, which forks the two of its DDP part."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--smoke"],
        cwd=tmp_path, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs/smoke-gpu.json").read_text())["report"]
    assert [row["devices"] for row in report["ddp"]] == [1, 2]
    assert report["cases"].keys() == {
        "published recipe, contrastive", "GlobalPool", "QueryDecoder, lean, contrastive",
        "QueryDecoder, published, contrastive", "LabelAttention, contrastive",
    }  # fmt: skip
    for name, row in report["cases"].items():
        assert row["images_per_second"] > 0 and row["gflop_per_image"] > 0
        assert row["peak_share"] is row["peak_memory_MB"] is row["syncs_per_step"] is None, "a CPU tells none of these"
        assert (row["loss_share"] is None) == (name in ("GlobalPool", "published recipe, contrastive"))


def test_without_cuda_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        run("gpu", monkeypatch)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "no CUDA device here; --device cpu --smoke shows that the benchmark works\n"
