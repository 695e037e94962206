"""MkDocs hook: write the reference of parameters and of the command line from the code."""

import ast
import json
import math
import os
import re
import subprocess
import sys
import tokenize
from io import StringIO
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt, MaxLen, MinLen
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
LARGE = 1e6  # bounds from here on are shown as powers of two


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "parameters": parameters_page,
        "command-line": command_line_page,
        "json": json_page,
    }
    for name, write in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=write()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Show links to files outside docs as the files' names: the site holds the docs alone."""
    return re.sub(r"\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)", outside, markdown)


def outside(link: re.Match[str]) -> str:
    text, path = link[1].strip("`"), link[2]
    return f"`{path}`" if text == path or path.endswith(text) else f"{link[1]} (`{path}`)"


# --- parameters -------------------------------------------------------------------------------


def parameters_page() -> str:
    """Every parameter group: keys, types, defaults, and the comments beside them in the code."""
    from d2v.params.experiment import Experiment

    parts = [
        "# Parameters",
        "",
        "An experiment is one YAML file. This page lists all of its keys; it is generated from the"
        " classes in `src/d2v/params`. `d2v check --params FILE` validates a file without running"
        " anything. Keys without a default are required.",
    ]
    for group in groups(Experiment):
        parts += ["", *section(group)]
    return "\n".join(parts) + "\n"


def groups(top: type[BaseModel]) -> list[type[BaseModel]]:
    """A class and all classes that its fields name, each once, in the order of the fields."""
    seen: dict[type[BaseModel], None] = {}
    todo = [top]
    while todo:
        group = todo.pop(0)
        if group in seen:
            continue
        seen[group] = None
        for field in group.model_fields.values():
            todo += [kind for kind in classes(field.annotation) if kind not in seen]
    return list(seen)


def classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in classes(part)]


def section(group: type[BaseModel]) -> list[str]:
    """A heading, the class's sentence, and a table of its keys."""
    doc = " ".join((group.__doc__ or "").split())
    notes = comments(group)
    rows = [
        f"| `{name}` | {shown(field)} | {default(field)} | {cell(notes.get(name, ''))} |"
        for name, field in group.model_fields.items()
    ]
    table = ["| key | type | default | meaning, unit, source |", "|---|---|---|---|", *rows]
    return [f"## {group.__name__}", "", doc, "", *table]


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}’s defaults"
    return f"`{json.dumps(value) if value is None or isinstance(value, bool) else value}`"


def shown(field: FieldInfo) -> str:
    """A field's type in words, with its bounds."""
    return words(field.annotation) + bounds(field.metadata)


def words(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(inner[0]) + bounds(getattr(inner[1], "metadata", inner[1:]))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join("`null`" if part is NoneType else words(part) for part in inner)
    if origin in (list, tuple):
        return f"list of {words(inner[0])}"
    if origin is dict:
        return f"mapping of names to {words(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {int: "integer", float: "number", str: "text", bool: "`true`, `false`"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def bounds(metadata: Any) -> str:
    """` ≥ 0, ≤ 1`: what annotations ask of a value or of a list's length."""
    said: list[str] = []
    lengths: dict[str, int] = {}
    for item in metadata:
        match item:
            case Len(min_length=low, max_length=high):
                lengths |= {"≥": low} | ({} if high is None else {"≤": high})
            case Ge(ge=x):
                said.append(f"≥ {x:g}")
            case Gt(gt=x):
                said.append(f"> {x:g}")
            case Le(le=x):
                said.append(f"≤ {x:g}")
            case Lt(lt=int() | float() as x):
                said.append(f"< {x:g}" if x < LARGE else f"< 2^{math.log2(x):.0f}")
            case MinLen(min_length=low):
                lengths["≥"] = low
            case MaxLen(max_length=high):
                lengths["≤"] = high
    if len(lengths) == 2 and len(set(lengths.values())) == 1:
        lengths = {"": lengths["≥"]}
    said += [" ".join(["length", *[sign] * bool(sign), str(n)]) for sign, n in lengths.items()]
    return " " + ", ".join(said) if said else ""


def comments(group: type[BaseModel]) -> dict[str, str]:
    """For each key of a class, the comment lines above it and the comment at its line's end."""
    found: dict[str, str] = {}
    for kind in group.mro():
        if kind.__module__.startswith("d2v."):
            found = _comments(kind) | found
    return found


def _comments(kind: type) -> dict[str, str]:
    """The comments of the keys that a class itself has."""
    import inspect

    source = inspect.getsource(sys.modules[kind.__module__])
    notes = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or node.name != kind.__name__:
            continue
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                above = statement.lineno - 1
                said: list[str] = []
                while above in notes and lines[above - 1].lstrip().startswith("#"):
                    said.insert(0, notes[above])
                    above -= 1
                span = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
                said += [notes[line] for line in span if line in notes]
                found[statement.target.id] = " ".join(said)
    return found


# --- JSON reports ---------------------------------------------------------------------------------


def json_page() -> str:
    """Every report that `--json` prints: keys, types, and the comments beside them in the code."""
    from d2v.cli import schemas

    reports = [kind for kind in vars(schemas).values() if _is_report(kind, schemas.Report)]
    parts = [
        "# JSON reports",
        "",
        "`d2v check`, `plan`, `status`, `verify`, `compare` and `doctor` print a JSON object with"
        " `--json`. Its `format` names the report and its version. A version may gain keys;"
        " removing a key or changing its meaning requires a new version. Undefined numbers are"
        " `null`. Errors that prevent a report are one line on standard error, as without"
        " `--json`; the exit codes are the same.",
    ]
    for report in reports:
        parts += ["", *section(report)]
    return "\n".join(parts) + "\n"


def _is_report(kind: Any, base: type[BaseModel]) -> bool:
    return isinstance(kind, type) and issubclass(kind, base) and kind is not base


# --- command line -----------------------------------------------------------------------------


def command_line_page() -> str:
    """The help of `d2v` and of each of its commands."""
    top = help_of()
    commands = re.findall(r"^    ([a-z]+)\s", top, flags=re.M)
    parts = ["# Command line", "", "```text", top.rstrip(), "```"]
    for command in commands:
        parts += ["", f"## d2v {command}", "", "```text", help_of(command).rstrip(), "```"]
    return "\n".join(parts) + "\n"


def help_of(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "d2v.cli.commands", *words, "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return run.stdout
