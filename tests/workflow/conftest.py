"""What tests of whole workflows share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """A copy of the folder in which the file's experiment was run (its `done`), to be changed."""
    return shutil.copytree(done, tmp_path / "copy", symlinks=True)
