"""Notebooks: stored without outputs, using public names only, and each executed for real, on small data."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
from support import run_notebooks
from support.running import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
SMALL = {"train_images": 80, "test_images": 25, "epochs": 2}  # all else runs as it stands


def code(path: Path) -> list[str]:
    return [cell.source for cell in run_notebooks.read(path).cells if cell.cell_type == "code"]


def test_there_are_some():
    assert {"01_data", "02_train"} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_without_outputs_and_says_nothing_of_its_machine(path):
    notebook = run_notebooks.read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert set(notebook.metadata.get("language_info", {})) <= {"name"}  # a version changes with every machine
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.source
    assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_names_public_functions_that_exist(path):
    modules = {}
    for node in (node for text in code(path) for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mlcl":
            assert not any(part.startswith("_") for part in node.module.split(".")[:-1])
            source = importlib.import_module(node.module)
            for alias in node.names:
                assert not alias.name.startswith("_")
                # A module of a package is no attribute of it before it is imported.
                found = getattr(source, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = found
        if isinstance(node, ast.Import):
            modules |= {a.name: importlib.import_module(a.name) for a in node.names if a.name.split(".")[0] == "mlcl"}
    assert modules
    for node in (node for text in code(path) for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr == "__file__", node.attr
            if isinstance(node.value, ast.Name) and node.value.id in modules:
                found = modules[node.value.id]
                assert hasattr(found, node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_has_no_long_functions(path):
    """What takes more is of general use, and belongs where it has a test of its own."""
    for node in (node for text in code(path) for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 15, node.name


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """The folder of all notebooks: as a reader's, it keeps the data and the runs of those before."""
    root = tmp_path_factory.mktemp("root")
    (root / "configs").symlink_to(REPOSITORY / "configs")
    (root / "notebooks").mkdir()
    return root / "notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_leaves_nothing_beside_itself(path, here):
    notebook = run_notebooks.read(path)
    run_notebooks.shorten(notebook, SMALL)
    run_notebooks.execute(notebook, here)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if "Warning" in output.get("text", "")]
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    assert sum("image/png" in data for data in shown) >= 3
    assert not [data["text/plain"] for data in shown if data["text/plain"].startswith("<") and len(data) == 1]
    assert not any(here.iterdir())


def test_the_script_says_what_failed_and_goes_on(tmp_path, capsys, monkeypatch):
    import nbformat

    paths = [str(tmp_path / name) for name in ("failing.ipynb", "fine.ipynb")]
    for path, text in zip(paths, ("1 / 0", "x = 1"), strict=True):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text)]), path)
    monkeypatch.setattr(sys, "argv", ["run_notebooks.py", *paths])
    assert run_notebooks.main() == 1
    out = capsys.readouterr().out
    assert "ZeroDivisionError" in out and f"{paths[1]}: " in out.splitlines()[-1]
