"""`d2v init`: what it says of a folder that it cannot write names no option that it lacks."""

from pathlib import Path

import pytest

from d2v.cli import commands as cli


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (".", "not a valid name for a new file or folder; give one as FOLDER"),
        ("mine", "already exists; give another name as FOLDER, or remove it yourself"),
        ("file/mine", "file is a file, not a folder; give another path as FOLDER"),
    ],
)
def test_a_folder_that_cannot_be_written_is_told_without_an_option(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").write_text("")
    assert cli.main(["init", folder]) == 2
    assert capsys.readouterr().err == f"error: {folder}: {said}\n"
