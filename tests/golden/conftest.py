"""`--golden-dir DIR`, `--golden2-dir DIR`: run the golden tests on other cases.

The second option is for data2vec 2.0. The files have the layout of the cases here, and any sizes.
"""

from functools import cache
from pathlib import Path

import pytest
import second_compare
import second_replay
from compare import groups
from replay import CASES, Case, replay


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", type=Path, help="folder of golden cases")
    parser.addoption("--golden2-dir", type=Path, help="folder of golden cases of data2vec 2.0")


def folders(config: pytest.Config, option: str, kept: Path) -> list[Path]:
    """All cases of the folder asked for, by default those that the repository keeps."""
    folder = config.getoption(option.strip("-").replace("-", "_"), None) or kept
    found = sorted(path.parent for path in folder.glob("*/trace.json"))
    if not found:
        raise pytest.UsageError(f"{option} {folder}: no */trace.json in it")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "second" in metafunc.fixturenames:
        found = folders(metafunc.config, "--golden2-dir", second_replay.CASES)
        _parametrize(metafunc, "second", [_second(f) for f in found], second_compare.groups)
    if "case" in metafunc.fixturenames:
        found = folders(metafunc.config, "--golden-dir", CASES)
        _parametrize(metafunc, "case", [_case(f) for f in found], groups)


def _parametrize(metafunc: pytest.Metafunc, name: str, cases: list, groups_of) -> None:
    """One test per case or, if the test takes a `group`, per case and group of quantities."""
    if "group" in metafunc.fixturenames:
        pairs = [(case, group) for case in cases for group in groups_of(case)]
        ids = [f"{case.folder.name}-{group}" for case, group in pairs]
        metafunc.parametrize((name, "group"), pairs, ids=ids)
    else:
        metafunc.parametrize(name, cases, ids=[c.folder.name for c in cases])


@pytest.fixture
def record(case: Case) -> dict:
    """What the project makes of the case; run once."""
    return _replayed(case.folder)


@pytest.fixture
def second_record(second: second_replay.Case) -> dict:
    """What the project makes of a case of data2vec 2.0; run once."""
    return _second_replayed(second.folder)


@cache
def _second(folder: Path) -> second_replay.Case:
    return second_replay.Case(folder)


@cache
def _second_replayed(folder: Path) -> dict:
    return second_replay.replay(_second(folder))


@cache
def _case(folder: Path) -> Case:
    return Case(folder)


@cache
def _replayed(folder: Path) -> dict:
    return replay(_case(folder))
