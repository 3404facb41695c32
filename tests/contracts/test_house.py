"""The floor plan: few rooms, imports that only run downwards, no long file, few private parts of dependencies.

A room is a package or a loose module right below ``mlcl``; a room stands one floor above the highest it imports.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.running import REPOSITORY

PACKAGE = REPOSITORY / "mlcl"
FILES = sorted(PACKAGE.rglob("*.py"))
LAZY = ("__init__", "inference")  # mlcl.load, imported on first use
MOST_PRIVATE = 10


def room_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Rooms that a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mlcl."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mlcl":
            below = node.module.split(".")[1:]
            for name in below[:1] or [alias.name for alias in node.names]:
                yield name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file() else "__init__"


@cache
def arrows() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {room_of(file): set() for file in FILES}
    for file in FILES:
        found[room_of(file)] |= {name for name in imported(ast.parse(file.read_text())) if name != room_of(file)}
    found[LAZY[0]].discard(LAZY[1])
    return found


def floor_of(room: str, above: tuple[str, ...] = ()) -> int:
    assert room not in above, f"a circle of imports: {' -> '.join((*above, room))}"
    return 1 + max((floor_of(below, (*above, room)) for below in arrows()[room]), default=0)


def test_few_rooms():
    loose = [path for path in PACKAGE.glob("*.py")]
    packages = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    assert len(loose) <= 9 and len(loose) + len(packages) <= 21


def test_imports_run_downwards_on_few_floors():
    floors = {room: floor_of(room) for room in arrows()}
    assert max(floors.values()) == floors["__main__"] <= 9, floors


@pytest.mark.parametrize("room, never", [("losses", "data"), ("heads", "data"), ("network", "losses"), ("viz", "data")])
def test_rooms_that_know_nothing_of_each_other(room, never):
    assert never not in arrows()[room]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_is_long(file):
    assert len(file.read_text().splitlines()) <= 300


def test_the_way_in_is_short():
    """What a newcomer reads: config, module, network, head, loss, metrics."""
    names = ("module.py", "network.py", "metrics.py", "heads/semantic_attention.py", "losses/label_contrastive.py")
    paths = [REPOSITORY / "configs" / "coco.yaml", *(PACKAGE / name for name in names)]
    lengths = {path.name: len(path.read_text().splitlines()) for path in paths}
    assert lengths["module.py"] <= 150 and sum(lengths.values()) <= 600, lengths


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.AST) -> set[str]:
    """What a file defines itself: functions, classes, variables, attributes of self."""
    nodes = list(ast.walk(tree))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return names | {node.attr for node in stored if ast.unparse(node.value) == "self"}


def private_uses(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Private parts of others: attributes, also by their name as text, and imports."""
    for node in ast.walk(tree):
        names: list[object] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            names = [getattr(node.args[1], "value", None)]
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("mlcl"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        if any(is_private(name) and name not in own for name in names):
            yield ast.unparse(node)


def test_few_private_parts_of_dependencies():
    public = {"_exit", "_asdict"}  # of os and of named tuples: documented
    uses = []
    for file in FILES:
        tree = ast.parse(file.read_text())
        uses += [f"{file.relative_to(PACKAGE)}: {use}" for use in private_uses(tree, own_names(tree) | public)]
    assert len(uses) <= MOST_PRIVATE, "\n".join(uses)
