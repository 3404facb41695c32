"""Our numbers beside other libraries': equal, or another one by its definition; docs/metrics.md prints them.

``python tests/analysis/test_against_others.py`` prints the rows of its table.
"""

import json
import re
import subprocess
import sysconfig
import tempfile
import venv
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from support.beside import calibrated, decided, elsewhere, ranked, scored
from support.beside.table import parts, same, value

pytestmark = [pytest.mark.upstream, pytest.mark.filterwarnings("ignore")]
BESIDE = Path(__file__).parents[1] / "support" / "beside"
DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
OURS = ("scikit-learn", "torchmetrics", "pycocotools", "torch")
OTHERS = {"netcal": "1.4.0", "MAPIE": "1.6.0", "cleanlab": "2.9.0"}  # the newest when this was written


def installed_rows():
    return [row for module in (scored, decided, ranked, calibrated) for row in module.rows(parts())]


def other_rows(folder):
    """An environment with this one's packages and the others; skips where they cannot be had."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    Path(packages.strip(), "ours.pth").write_text(sysconfig.get_path("purelib"))
    wanted = [f"{name}=={number}" for name, number in OTHERS.items()]
    pip = subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], capture_output=True, text=True)
    if pip.returncode:
        pytest.skip(f"netcal, MAPIE and cleanlab cannot be installed here: {pip.stderr.strip().splitlines()[-1][:200]}")
    arrays = {f"{name} {kind}": getattr(part, kind) for name, part in parts().items() for kind in "py"}
    np.savez(folder / "parts.npz", **arrays)
    script = [python, BESIDE / "elsewhere_numbers.py", folder / "parts.npz", folder / "found.json"]
    subprocess.run(script, check=True)
    found = json.loads((folder / "found.json").read_text())
    assert found.pop("versions") == list(OTHERS.values())
    return elsewhere.rows(parts(), found)


def documented(others):
    """The rows of the table that are about these other libraries, or about none of them, and all versions above it."""
    text = DOCUMENT.read_text().split("## Beside other libraries")[1].split("\n## ")[0]
    rows = [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in text.splitlines() if line[:1] == "|"]
    chosen = [row for row in rows[2:] if (row[3] in OTHERS) == others]
    return chosen, dict(re.findall(r"([\w-]+) (\d+\.\d+\.\d+)", text))


def check(rows):
    for row in rows:
        here, name = row.loop(), f"{row.metric}, {row.part}"
        if row.ours:
            assert same(here, value(row.ours)), f"{name}: mlcl is not its definition"
        if row.theirs is not None:
            assert not same(here, row.expected()), f"{name}: the difference does not show"
        for library, call in row.others.items():
            assert same(value(call), row.expected()), f"{name}: {library} has {value(call)}, not {row.expected()}"


def test_the_installed_libraries_are_equal_or_differ_by_their_definition():
    rows = installed_rows()
    check(rows)
    assert sum(len(row.others) for row in rows) >= 90
    printed, versions = documented(others=False)
    assert [row.printed() for row in rows] == printed
    assert {name: versions[name] for name in OURS} == {name: version(name).split("+")[0] for name in OURS}


@pytest.mark.timeout(3600)  # installs packages, which a busy machine takes long for
def test_netcal_mapie_and_cleanlab_are_equal_or_differ_by_their_definition(tmp_path):
    rows = other_rows(tmp_path)
    check(rows)
    printed, versions = documented(others=True)
    assert [row.printed() for row in rows] == printed
    assert {name: versions[name] for name in OTHERS} == OTHERS


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        for row in [*installed_rows(), *other_rows(Path(name))]:
            print("|", " | ".join(row.printed()), "|")
