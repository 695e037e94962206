"""The commit in a result's provenance is that of this package's checkout, or none."""

import subprocess
from pathlib import Path

import pytest

from d2v.experiment import provenance

NONE = {"git_commit": None, "dirty": None}


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "paper.tex").touch()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "a")
    return tmp_path


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    return folder


@pytest.mark.parametrize("place", [".venv/lib/site-packages/d2v", "vendor/src/d2v"])
@pytest.mark.parametrize("tracked", [True, False])
def test_the_repository_around_an_installed_package_is_not_its_own(
    repository: Path, monkeypatch: pytest.MonkeyPatch, place: str, tracked: bool
) -> None:
    folder = package(repository / place, monkeypatch)
    if tracked:
        git(repository, "add", "--force", str(folder))
        git(repository, "commit", "--quiet", "-m", "b")
    assert provenance.git() == NONE


def test_a_checkout_has_a_commit_and_may_be_dirty(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package(repository / "src" / "d2v", monkeypatch)
    assert provenance.git() == NONE  # git does not know the package
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "b")
    commit = git(repository, "rev-parse", "HEAD")
    assert provenance.git() == {"git_commit": commit, "dirty": False}
    (folder / "__init__.py").write_text("1")
    assert provenance.git() == {"git_commit": commit, "dirty": True}


def test_a_package_without_any_repository_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path / "src" / "d2v", monkeypatch)
    assert provenance.git() == NONE
