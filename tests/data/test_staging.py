"""Copies of prepared sets on a node's own disk: verified, shared, and given up for space."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from d2v.data import build_dataset, staging
from d2v.data.shards import write_meta
from d2v.util import locks

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is staged before a test, and nothing is held after it."""
    monkeypatch.setattr(staging, "_used", {})
    held: list = []
    monkeypatch.setattr(staging, "_held", held)
    monkeypatch.setenv(staging.VARIABLE, "")
    yield
    for file in held:
        file.close()


def prepared(folder: Path, content: bytes = b"0123") -> Path:
    """A small set: a file, an index, and a label list."""
    (folder / "train").mkdir(parents=True)
    (folder / "train/00000.bin").write_bytes(content)
    np.savez(folder / "train/index.npz", offset=np.arange(2))
    (folder / "lists").mkdir()
    (folder / "lists/few.txt").write_text("a\n")
    write_meta(folder, kind="x")
    return folder


def copies(where: Path) -> list[Path]:
    return sorted(path for path in where.glob("d2v-*/*") if path.is_dir())


def forget() -> None:
    """What a job does by ending."""
    for file in staging._held:
        file.close()
    staging._held.clear()
    staging._used.clear()


def test_without_a_place_the_set_is_read_where_it_is(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "digits")
    assert staging.local(folder) == folder


def test_a_copy_is_made_once_and_found_again(tmp_path, monkeypatch, capsys) -> None:
    folder, where = prepared(tmp_path / "digits"), tmp_path / "scratch"
    monkeypatch.setenv("SCRATCH", str(where))
    staging.stage([folder], "$SCRATCH")
    [copy] = copies(where)
    assert staging.local(folder) == copy
    assert (copy / "train/00000.bin").read_bytes() == b"0123"
    assert f"{folder}: staged to {copy} (" in capsys.readouterr().out
    forget()
    (folder / "lists/few.txt").write_text("a\nb\n")  # edited since
    assert staging.local(folder) == copy
    assert (copy / "lists/few.txt").read_text() == "a\nb\n"
    assert capsys.readouterr().out == ""
    forget()
    (folder / "lists/few.txt").write_text("a\n")
    (copy / "train/00000.bin").write_bytes(b"01")  # lost half
    assert staging.local(folder) == copy
    assert (copy / "train/00000.bin").read_bytes() == b"0123"


def test_a_copy_that_is_not_what_was_prepared_is_not_used(tmp_path, capsys) -> None:
    folder, where = prepared(tmp_path / "digits"), tmp_path / "scratch"
    (folder / "train/00000.bin").write_bytes(b"0124")
    staging.stage([folder], str(where))
    assert staging.local(folder) == folder
    said = f"{folder}: read from where it is, not staged (its content is not that of its meta.json)"
    assert capsys.readouterr().out == f"{said}\n"
    assert copies(where) == []


def test_a_disk_that_is_too_small_or_not_there_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    folder, where = prepared(tmp_path / "digits", b"0" * 10**6), tmp_path / "scratch"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**8, 0, 2 * 10**6))
    staging.stage([folder], str(where))
    assert staging.local(folder) == folder
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "read from where it is, not staged (0.0 GB, and " in said
    assert "has 0.0 GB free)" in said
    for place, reason in (("/proc/no", "/proc/no"), ("$NOT_SET/x", "is no absolute path")):
        forget()
        monkeypatch.setenv(staging.VARIABLE, "")
        staging.stage([folder], place)
        assert staging.local(folder) == folder
        said = capsys.readouterr().out
        assert said.count("\n") == 1
        assert reason in said


def test_copies_that_nobody_uses_make_room(tmp_path, monkeypatch) -> None:
    where = tmp_path / "scratch"
    sets = [prepared(tmp_path / name, name.encode() * 1000) for name in ("old", "used", "new")]
    staging.stage(sets[:1], str(where))
    forget()
    staging.stage(sets[1:2], str(where))

    def usage(_: object) -> Usage:
        return Usage(100, 0, 10**6 if len(copies(where)) < 2 else 0)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    staging.stage(sets[2:], str(where))
    names = [path.name.partition("-")[0] for path in copies(where)]
    assert names == ["new", "used"]


def test_the_processes_of_a_node_share_one_copy(tmp_path: Path) -> None:
    folder, where = prepared(tmp_path / "digits", os.urandom(10**7)), tmp_path / "scratch"
    code = (
        "import sys; from pathlib import Path; from d2v.data import staging;"
        f"staging.stage([Path({str(folder)!r})], {str(where)!r});"
        f"print(staging.local(Path({str(folder)!r})))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0].splitlines() for process in started]
    [copy] = copies(where)
    assert [lines[-1] for lines in said] == [str(copy)] * 3
    assert sum("staged to" in line for lines in said for line in lines) == 1
    with locks.attempt(copy.with_name(f"{copy.name}.used")) as alone:
        assert alone is not None  # they have ended


def test_data_sets_are_read_from_the_copy(small_prepared: Path, tmp_path: Path) -> None:
    from d2v import params

    experiment = params.load(Path("tests/params/tiny.yaml"))
    p = experiment.pretrain["vision"]
    folder = shutil.copytree(small_prepared / "images", tmp_path / "digits")

    def first() -> dict[str, object]:
        dataset = build_dataset(
            folder, p.split, p.view, seed=0, mask=p.mask, train=True, encoder=p.encoder
        )
        return {name: np.asarray(value).tolist() for name, value in dataset[(0, 0)].items()}

    before = first()
    staging.stage([folder], str(tmp_path / "scratch"))
    for path in folder.glob("*/*.bin"):
        path.unlink()
    assert first() == before
