"""Modules in the `deps` of data stages: those that a stage's command imports, found in the code.

    python tools/dvc_deps.py            rewrite the src/ lines of every file of stages
    python tools/dvc_deps.py --check    only say which stages are out of date; exit code 1 if any

A module counts if it is imported where it is loaded, or inside a function that the stage reaches:
one that a reached function or the body of a module names. Imports for type checkers do not count,
nor do the branches of the command line that belong to other commands. Reading too much is
possible, too little is not, as long as modules are imported by statements (test_dvc_deps.py
runs every kind of stage and compares).
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "dvc.yaml",
    "workflow/paper/dvc.yaml",
    "workflow/released/dvc.yaml",
    "workflow/public/dvc.yaml",
    "workflow/own/template.yaml",
)
# the module of each command of stages; the word that chooses a branch comes after the command
ENTRIES = {
    "prepare": "d2v.cli.prepare",
    "layout": "d2v.data.mini.mini",
    "convert": "d2v.interop.convert",
}
Symbol = tuple[str, str]  # module, and a name in it
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Source:
    """The modules below a folder src/, parsed when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cache  # noqa: B019 - as below
    def path(self, module: str) -> Path | None:
        """File of a module or package, if there is one."""
        place = self.folder.joinpath(*module.split("."))
        found = [p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()]
        return found[0] if found else None

    @cache  # noqa: B019 - there is one for each run
    def module(self, name: str) -> "Module":
        """What a module imports and defines."""
        path = self.path(name)
        assert path is not None
        return Module(self, ast.parse(path.read_text(encoding="utf-8")))


class Module:
    """Imported names and definitions of a module's own level."""

    def __init__(self, source: Source, tree: ast.Module) -> None:
        self.source = source
        self.body = [node for node in tree.body if not _skipped(node)]
        self.definitions = {n.name: n for n in self.body if isinstance(n, FUNCTIONS)}
        loaded = [n for n in self.body if not isinstance(n, FUNCTIONS)]
        self.imported = dict(imports(source, loaded))


class Reach:
    """Modules and definitions that a command reaches from its entry."""

    def __init__(self, source: Source, chosen: str) -> None:
        self.source, self.chosen = source, chosen
        self.modules: set[str] = set()
        self._symbols: set[Symbol] = set()

    def load(self, module: str) -> None:
        """A module is imported: its packages are, and what stands outside of functions runs."""
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name in self.modules or self.source.path(name) is None:
                continue
            self.modules.add(name)
            for node in self.source.module(name).body:
                if isinstance(node, FUNCTIONS):
                    for part in _outside(node):
                        self._read(name, part, {})
                else:
                    self._read(name, node, {})

    def symbol(self, module: str, name: str) -> None:
        """A definition or an imported name of a module is used."""
        if (module, name) in self._symbols:
            return
        self._symbols.add((module, name))
        self.load(module)
        found = self.source.module(module)
        if name in found.definitions:
            self._read(module, found.definitions[name], {})
        elif name in found.imported:
            self._use(found.imported[name])

    def _use(self, target: Symbol) -> None:
        module, name = target
        self.load(module)
        if name:
            self.symbol(module, name)

    def _read(self, module: str, node: ast.AST, local: dict[str, Symbol]) -> None:
        """Follow a piece of code: its imports, and the names it uses."""
        if isinstance(node, ast.If) and (asked := _choice(node.test)) is not None:
            for part in node.body if asked == self.chosen else node.orelse:
                self._read(module, part, local)
            return
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name, target in imports(self.source, [node]):
                local[name] = target
                self.load(target[0])
            return
        known = self.source.module(module)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target = local.get(node.value.id) or known.imported.get(node.value.id)
            if target is not None and not target[1]:
                self.load(target[0])
                self.symbol(target[0], node.attr)
                return
        if isinstance(node, ast.Name):
            if node.id in local:
                self._use(local[node.id])
            elif node.id in known.definitions or node.id in known.imported:
                self.symbol(module, node.id)
        for child in ast.iter_child_nodes(node):
            if not _skipped(child):
                self._read(module, child, local)


def imports(source: Source, nodes: list[ast.stmt]) -> Iterator[tuple[str, Symbol]]:
    """Names that statements import of this project, with module and name there ("" for modules)."""
    for outer in nodes:
        for node in ast.walk(outer):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if source.path(alias.name):
                        yield alias.asname or alias.name.split(".")[0], (alias.name, "")
            elif isinstance(node, ast.ImportFrom) and node.module and source.path(node.module):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    target = (inner, "") if source.path(inner) else (node.module, alias.name)
                    yield alias.asname or alias.name, target


def _skipped(node: ast.AST) -> bool:
    """Whether a statement runs only for type checkers, or only in a script."""
    if not isinstance(node, ast.If):
        return False
    test = ast.unparse(node.test)
    return test in ("TYPE_CHECKING", "typing.TYPE_CHECKING") or test.startswith("__name__ ==")


def _outside(node: ast.AST) -> Iterator[ast.AST]:
    """Parts of a definition that run when the module is loaded: decorators, defaults, bases."""
    yield from getattr(node, "decorator_list", [])
    yield from getattr(node, "bases", [])
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, FUNCTIONS):
                yield from _outside(inner)
            else:
                yield inner
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from filter(None, [*node.args.defaults, *node.args.kw_defaults])


def _choice(test: ast.expr) -> str | None:
    """The command that a test asks for: `args.command == "x"`, or `isinstance(data, p.TheSet)`."""
    match test:
        case ast.Compare(
            left=ast.Attribute(attr="command"),
            ops=[ast.Eq()],
            comparators=[ast.Constant(value=str(word))],
        ):
            return word
        case ast.Call(
            func=ast.Name(id="isinstance"), args=[ast.Name(id="data"), ast.Attribute(attr=name)]
        ):
            return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return None


def modules_of(command: str, folder: Path = ROOT / "src") -> list[str]:
    """Files that a stage's command imports, as its deps name them, sorted.

    `d2v.cli.commands`, which only finds the command, is left out.
    """
    words = command.split()
    return _reached(ENTRIES[words[1]], words[2], folder)


@cache
def _reached(entry: str, chosen: str, folder: Path) -> list[str]:
    reach = Reach(_source(folder), chosen)
    reach.symbol(entry, "main")
    paths = sorted(p for m in reach.modules if (p := reach.source.path(m)) is not None)
    return [path.relative_to(folder.parent).as_posix() for path in paths]


@cache
def _source(folder: Path) -> Source:
    return Source(folder)


def rewritten(text: str, stages: dict[str, list[str]]) -> str:
    """A file of stages with the src/ lines of each stage's deps replaced."""
    out: list[str] = []
    stage, inside = "", False
    for line in text.splitlines(keepends=True):
        if head := re.match(r"  (\w+):\s*$", line):
            stage = head[1]
        if inside and not line.startswith("      "):
            out += [f"      - {path}\n" for path in stages[stage]]
            inside = False
        if line == "    deps:\n":
            inside = True
        if not (inside and line.startswith("      - src/")):
            out.append(line)
    return "".join(out)


def main() -> int:
    """Rewrite or check all files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if stale")
    check = parser.parse_args().check
    stale = False
    for name in FILES:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        stages = yaml.safe_load(text)["stages"]
        new = rewritten(text, {s: modules_of(stage["cmd"]) for s, stage in stages.items()})
        if new == text:
            continue
        stale = True
        if check:
            print(f"{name}: deps are not what the stages import; run `python tools/dvc_deps.py`")
        else:
            path.write_text(new, encoding="utf-8")
            print(f"{name}: rewritten; run `dvc repro` and commit dvc.lock")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
