"""Recipes and the files of a project that come with d2v: those of the clone, or copies in a wheel.

The build (setup.py) copies PARTS into the wheel, so that every file exists only once in the
repository.
"""

import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
COPIES = "shipped"  # folder of the copies in the package
PARTS = ("Snakefile", "dvc.yaml", "data.dvc", ".dvc/config", ".dvcignore", "params", "workflow")
RECIPES = "params"


def root() -> Path:
    """Folder that contains PARTS."""
    copies = PACKAGE / COPIES
    return copies if copies.is_dir() else PACKAGE.parents[1]


def files(folder: Path) -> Iterator[Path]:
    """Files of PARTS in a folder that contains them, relative to it."""
    for part in PARTS:
        path = folder / part
        # safe: only reads
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        yield from (p.relative_to(folder) for p in found if p.exists() and _ships(p, path))


def _ships(path: Path, part: Path) -> bool:
    """Whether a file is not the user's: d2v writes stages of own data below workflow/own."""
    inside = path.relative_to(part).parts
    return "__pycache__" not in inside and not (inside[:1] == ("own",) and len(inside) > 2)


def recipe(path: Path) -> Path:
    """A parameter file: `path` itself or, if it does not exist, the shipped params/NAME."""
    if path.is_absolute() or path.parts[:1] != (RECIPES,) or path.exists():
        return path
    copy = root() / path
    return copy if copy.is_file() else path


def without_sources(stages: str) -> str:
    """A DVC file without the modules of d2v, which a project does not have, among the deps."""
    kept = re.sub(r"^ +- src/.*\n", "", stages, flags=re.M)
    return re.sub(r"^ +deps:\n(?! +- )", "", kept, flags=re.M)
