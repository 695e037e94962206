"""The notebooks in examples/ run from beginning to end, and are committed without outputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in found["cells"] if cell["cell_type"] == kind]


def test_there_are_three_and_the_pages_lead_to_them() -> None:
    assert len(NOTEBOOKS) == 3
    for page in (ROOT / "README.md", ROOT / "docs/python.md"):
        linked = set(re.findall(r"examples/([\w-]+\.ipynb)", page.read_text()))
        assert linked == {path.name for path in NOTEBOOKS}, page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_valid_and_without_outputs(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    """All code cells in one process, figures into nothing, temporary folders in the test's own."""
    code = tmp_path / "cells.py"
    code.write_text("\n\n".join(cells(path, "code")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(code)],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "agg", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
