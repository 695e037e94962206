"""Folders that another program wrote stay as they are."""

from pathlib import Path

import pytest

from d2v.data.shards import write_meta, written_whole
from d2v.errors import UserError


@pytest.mark.parametrize("name", ["out", "out.old", "out.tmp"])
def test_a_foreign_folder_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "chapter1.tex").write_text("x")
    with (
        pytest.raises(UserError, match="no data set that d2v prepared"),
        written_whole(tmp_path / "out"),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "chapter1.tex").read_text() == "x"


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with pytest.raises(UserError, match="symbolic link"), written_whole(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_symlink()


def test_a_prepared_folder_is_replaced(tmp_path: Path) -> None:
    for text in ("a", "b"):
        with written_whole(tmp_path / "out") as folder:
            (folder / "x").write_text(text)
            write_meta(folder)
    assert (tmp_path / "out" / "x").read_text() == "b"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
