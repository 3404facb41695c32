"""Execute notebooks, each in a fresh kernel: ``make notebooks``."""

import argparse
import ast
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else each kernel warns about debugging

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from traitlets.config import Config

SLOW = 120  # seconds of a whole notebook, above which a warning is printed
CELL_LIMIT = 240  # seconds of one cell; more than a busy machine takes, so that only a cell that hangs fails


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def shorten(notebook: NotebookNode, settings: Mapping[str, Any]) -> None:
    """Override the variables of the cell tagged ``parameters`` in a cell after it, as papermill does."""
    place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    own = {node.id for node in ast.walk(ast.parse(notebook.cells[place].source)) if isinstance(node, ast.Name)}
    text = "\n".join(f"{name} = {value!r}" for name, value in settings.items() if name in own)
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(text))


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Fill in the outputs, as Jupyter would in this folder; raise ``CellExecutionError`` where a cell fails."""
    ipc = Config({"KernelManager": {"transport": "ipc"}})  # instead of a network port
    with tempfile.TemporaryDirectory() as sockets:
        ipc.KernelManager.ip = f"{sockets}/kernel"
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=CELL_LIMIT, resources=where, config=ipc).execute()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, help="folder for the executed notebooks, with their figures")
    arguments = parser.parse_args()
    failed = 0
    for path in arguments.notebooks:
        start = time.perf_counter()
        try:
            execute(notebook := read(path), path.resolve().parent)
        except (CellExecutionError, TimeoutError) as error:  # nbclient's own time-out is a TimeoutError
            print(f"{path}: failed after {time.perf_counter() - start:.0f} s\n{error}", flush=True)
            failed += 1
            continue
        seconds = time.perf_counter() - start
        note = f"  warning: more than {SLOW} s; on an idle machine that is too long" if seconds > SLOW else ""
        print(f"{path}: {seconds:.0f} s{note}", flush=True)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, arguments.output / path.name)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
