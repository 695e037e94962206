"""An environment with nothing but the core dependencies: links to their files, and no others."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed(names: list[str]) -> set[str]:
    """Canonical names of distributions and of everything that they require here."""
    found: set[str] = set()
    todo = [Requirement(name) for name in names]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        todo += map(Requirement, metadata.requires(name) or [])
    return found


def core() -> set[str]:
    """Distributions that `pip install d2v` brings."""
    return needed(PROJECT["dependencies"])


def make(folder: Path) -> Path:
    """Fill a folder with links to what the core's distributions installed."""
    folder.mkdir(parents=True)
    for name in core():
        for file in metadata.files(name) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(metadata.distribution(name).locate_file(top))))
    return folder


def run(packages: Path, source: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that sees the standard library, `packages` and `source`."""
    outer = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**outer, "PYTHONPATH": os.pathsep.join(map(str, (source, packages)))},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
