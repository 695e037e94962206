"""The tree: rooms in one order, imports in one direction, no circles."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "d2v"
# in the order in which data flow; a room imports those before it
ORDER = (
    "util", "params", "model", "data", "training", "evaluation", "interop", "experiment", "jobs",
    "results", "cli",
)  # fmt: skip


def module_of(path: Path) -> str:
    """Dotted name of a source file, below d2v."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__").removesuffix(".")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


class _Running(ast.NodeTransformer):
    """Leaves out what only a type checker imports."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


@cache  # of every file once: visiting a tree takes longer than all else here
def imports(path: Path) -> tuple[str, ...]:
    """Modules of d2v that a file imports when it runs, anywhere in it."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(_Running().visit(ast.parse(path.read_text()))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "d2v":
            base = (node.module or "").removeprefix("d2v").removeprefix(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".removeprefix(".")
                yield full if full in MODULES else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("d2v."):
                    yield alias.name.removeprefix("d2v.")


def room_of(module: str) -> str:
    return module.partition(".")[0]


def test_the_package_is_a_list_of_rooms() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries == {*ORDER, "__init__.py"}


@pytest.mark.parametrize("room", ORDER)
def test_imports_are_those_that_the_room_declares(room: str) -> None:
    doc = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    said = re.search(r"^Imports: ([\w, ]+)\.$", doc, re.M)
    assert said, f"{room}/__init__.py lacks a line 'Imports: room, room.'"
    declared = {word for word in said[1].split(", ") if word != "none"}
    assert declared <= set(ORDER[: ORDER.index(room)]), "a room imports those before it"
    real = {
        room_of(target)
        for module, path in MODULES.items()
        if room_of(module) == room
        for target in imports(path)
    }
    assert real - {room} == declared


def test_there_is_no_circle() -> None:
    graph = {
        module: {target for target in imports(path) if target not in ("", module)}
        for module, path in MODULES.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by name alone, and would collect none of the suite."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
