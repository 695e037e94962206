"""Files of figures (-o): a benchmark replaces only what a benchmark wrote."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"  # its files are from before the mark, too
MARK = {"written_by": "benchmarks of d2v"}


def out(text: str) -> Path:
    """The path that -o names, as a type of argparse; refused before anything is measured."""
    if (said := fault(Path(text))) is not None:
        raise argparse.ArgumentTypeError(said)
    return Path(text)


def fault(path: Path) -> str | None:
    """Why a file of figures cannot be written, in one sentence; None if it can."""
    if path.suffix == ".json" and path.resolve().parent == FOLDER.resolve() and path.is_file():
        return None
    if path.is_symlink() or (path.exists() and not _is_ours(path)):
        return f"{path}: not written by a benchmark; give another path with -o, or move it away"
    return None


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write figures; ends with one sentence if another file has appeared there meanwhile."""
    if (said := fault(path)) is not None:
        sys.exit(f"error: {said}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**MARK, **found}, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The figures of a file."""
    found: dict[str, Any] = json.loads(path.read_text())
    return {key: value for key, value in found.items() if key not in MARK}


def _is_ours(path: Path) -> bool:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and MARK.items() <= found.items()
