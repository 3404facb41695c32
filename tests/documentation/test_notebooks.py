"""Notebooks: stored without outputs, using public names only, and each executed for real, on small data."""

import ast
import functools
import importlib
import inspect
import sys

import nbformat
import pytest
from support import run_notebooks
from support.running import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
SMALL = {"train_images": 60, "test_images": 25, "epochs": 1}  # everything else runs as it is stored


def nodes(notebook):
    """The syntax tree of all code cells."""
    return [node for cell in notebook.cells if cell.cell_type == "code" for node in ast.walk(ast.parse(cell.source))]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return run_notebooks.read(request.param)


def test_it_is_stored_without_outputs_and_traces_of_a_machine(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert set(notebook.metadata.get("language_info", {})) <= {"name"}  # a version changes with every machine
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.source
    assert notebook.cells[0].source.startswith("# ")


def imported(notebook):
    """What the notebook has from mlcl, by the names that it has there."""
    modules = {}
    for node in nodes(notebook):
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
    return modules


def test_it_names_public_functions_that_exist(notebook):
    modules = imported(notebook)
    assert modules
    for node in nodes(notebook):
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), node.attr
            if isinstance(node.value, ast.Name) and node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.FunctionDef):  # a longer one belongs into the package, with a test
            assert node.end_lineno - node.lineno < 15, node.name


def test_it_gives_arguments_that_exist(notebook):
    """To each function and class of mlcl that it calls by its name."""
    names, calls = imported(notebook), 0
    for call in (node for node in nodes(notebook) if isinstance(node, ast.Call)):
        parts, place = [], call.func
        while isinstance(place, ast.Attribute):
            parts, place = [place.attr, *parts], place.value
        if (
            not isinstance(place, ast.Name)
            or place.id not in names
            or any(isinstance(a, ast.Starred) for a in call.args)
        ):
            continue
        given = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        signature = inspect.signature(functools.reduce(getattr, parts, names[place.id]))
        bind = signature.bind if len(given) == len(call.keywords) else signature.bind_partial
        bind(*call.args, **given)
        calls += 1
    assert calls >= 5


@pytest.mark.slow  # half a minute; above is what can be said of a notebook that is not run
def test_all_run_and_leave_nothing_beside_themselves(tmp_path):
    """One after the other in one kernel, whose names are deleted in between: importing torch takes most of the time."""
    here = tmp_path / "notebooks"
    here.mkdir()
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    names, joined = [], nbformat.v4.new_notebook()
    for path in NOTEBOOKS:
        notebook = run_notebooks.read(path)
        run_notebooks.shorten(notebook, SMALL)
        start = nbformat.v4.new_code_cell(f"%reset -f\nimport os; os.chdir({str(here)!r})")
        joined.cells += [start, *notebook.cells]
        names += [path.stem] * (len(notebook.cells) + 1)
    run_notebooks.execute(joined, here)
    outputs = {path.stem: [] for path in NOTEBOOKS}
    for name, cell in zip(names, joined.cells, strict=True):
        outputs[name] += cell.get("outputs", [])
    assert {"01_data", "02_train"} <= {*outputs}
    for name, parts in outputs.items():
        assert not [part.text for part in parts if "Warning" in part.get("text", "")], name
        shown = [part.data for part in parts if part.output_type == "execute_result"]
        assert sum("image/png" in data for data in shown) >= 3, name
        assert not [data["text/plain"] for data in shown if data["text/plain"].startswith("<") and len(data) == 1], name
    assert not any(here.iterdir())


@pytest.mark.slow
def test_the_script_names_what_failed(tmp_path, monkeypatch, capsys):
    paths = [tmp_path / "fine.ipynb", tmp_path / "failing.ipynb"]
    for path, text in zip(paths, ("1 + 1", "1 / 0"), strict=True):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text)]), path)
    monkeypatch.setattr(sys, "argv", ["run_notebooks", *map(str, paths)])
    assert run_notebooks.main() == 1
    printed = capsys.readouterr().out
    assert f"{paths[0]}: " in printed and "failed" not in printed.splitlines()[0]
    assert f"{paths[1]}: failed" in printed and "ZeroDivisionError" in printed
