"""`--golden-dir DIR`: run the golden tests on other cases of the same file layout."""

from functools import cache
from pathlib import Path

import pytest
from compare import groups
from replay import CASES, Case, replay


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", type=Path, help="folder of golden cases")


def folders(config: pytest.Config) -> list[Path]:
    """All cases of the folder asked for."""
    folder = config.getoption("golden_dir", None) or CASES
    found = sorted(path.parent for path in folder.glob("*/trace.json"))
    if not found:
        raise pytest.UsageError(f"--golden-dir {folder}: no */trace.json in it")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    cases = [_case(folder) for folder in folders(metafunc.config)]
    if "group" in metafunc.fixturenames:
        pairs = [(case, group) for case in cases for group in groups(case)]
        ids = [f"{case.folder.name}-{group}" for case, group in pairs]
        metafunc.parametrize(("case", "group"), pairs, ids=ids)
    else:
        metafunc.parametrize("case", cases, ids=[c.folder.name for c in cases])


@pytest.fixture
def record(case: Case) -> dict:
    """What the project makes of the case; run once."""
    return _replayed(case.folder)


@cache
def _case(folder: Path) -> Case:
    return Case(folder)


@cache
def _replayed(folder: Path) -> dict:
    return replay(_case(folder))
