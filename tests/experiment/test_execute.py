"""The history of a run that goes on with other code."""

from pathlib import Path
from typing import Any

import pytest

from d2v.experiment import execute, provenance
from d2v.training import layout
from d2v.util.errors import UserError


@pytest.fixture(autouse=True)
def commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "git", lambda: {"git_commit": "c", "dirty": False})


def enter(work: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """Versions after an attempt with this code began: the step after which each went on."""
    monkeypatch.setattr(provenance, "code_sha256", lambda: code)
    versions = execute._enter(work)["versions"]
    return [(version["after_step"], version["code_sha256"]) for version in versions]


def reach(work: Path, step: int) -> None:
    (work / f"checkpoints/step-{step}").mkdir(parents=True)


def test_every_version_of_the_code_is_listed_with_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert enter(tmp_path, "a", monkeypatch) == [(0, "a")]
    reach(tmp_path, 100)
    assert enter(tmp_path, "a", monkeypatch) == [(0, "a")]  # resumed with the same code
    assert enter(tmp_path, "b", monkeypatch) == [(0, "a"), (100, "b")]
    # b was cut off before its first checkpoint: none of its steps is in the result
    assert enter(tmp_path, "c", monkeypatch) == [(0, "a"), (100, "c")]
    reach(tmp_path, 250)
    assert enter(tmp_path, "a", monkeypatch) == [(0, "a"), (100, "c"), (250, "a")]


def test_a_finished_run_starts_its_history_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, "a", monkeypatch)
    reach(tmp_path, 300)
    execute._leave(tmp_path)
    assert enter(tmp_path, "b", monkeypatch) == [(0, "b")]
    assert not (tmp_path / "checkpoints").exists()


def test_what_a_user_put_among_the_checkpoints_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, "a", monkeypatch)
    reach(tmp_path, 300)
    (tmp_path / "checkpoints/step-300" / layout.META).write_text("{}")
    for name in ("best", "step-300-for-the-paper"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / layout.MODEL).touch()
    (tmp_path / "checkpoints/step-300/notes").touch()
    execute._leave(tmp_path)
    with pytest.raises(UserError, match=r"step-300: contains notes.*; move the folder away"):
        enter(tmp_path, "b", monkeypatch)
    (tmp_path / "checkpoints/step-300/notes").unlink()
    assert enter(tmp_path, "b", monkeypatch) == [(0, "b")]
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["best", "step-300-for-the-paper"]
