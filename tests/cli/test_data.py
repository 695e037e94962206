"""`d2v data --list`: what an experiment needs, has, and is missing; nothing is run."""

from pathlib import Path

import pytest
from preparing import run
from small_sets import image_tree

from d2v.cli import commands as cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's parameters and stages, with one prepared set."""
    for name in ("params", "workflow", "dvc.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    tree = image_tree(tmp_path / "tree")
    run("imagefolder", tree, "-o", tmp_path / "prepared" / "mini" / "digits", "--workers", 1)
    return tmp_path


def test_the_list_names_what_is_there_and_what_is_missing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["data", "--list"]) == 0
    first, *others, last = capsys.readouterr().out.splitlines()
    assert first.startswith("digits         prepared  prepared/mini/digits: 12 examples, 2 classes")
    assert "spoken_digits  missing   prepared/mini/spoken_digits: not prepared yet" in others
    assert last == "1 of 7 sets are prepared"


def test_the_list_says_where_a_source_is_missing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["data", "--list", "--params", "params/paper.yaml", "audioset", "rte"]) == 0
    audio, glue, last = capsys.readouterr().out.splitlines()
    assert audio.startswith("audioset  missing   prepared/paper/audioset: its source /datasets/")
    assert glue.startswith("rte       missing   prepared/paper/rte: its source /datasets/glue_data")
    assert last == "0 of 2 sets are prepared"


def test_a_set_that_is_no_stage_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "--list", "rtte", "--params", "params/paper.yaml"]) != 0
    assert "did you mean rte?" in capsys.readouterr().err


NO_STAGES = {
    "README.md": "# Text: of a *page\n\n- `a`: b\n",
    "data.dvc": "outs:\n- path: data\n",
    "empty": "",
    "text": "some words",
    "list": "stages: [a, b]",
    "none": "stages: {a: 1}",
    "deep": "[" * 2000 + "]" * 2000,
}


@pytest.mark.parametrize("name", [*NO_STAGES, "latin-1", "/dev/null", "params"])
def test_a_file_without_stages_is_one_sentence(
    root: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name in NO_STAGES:
        (root / name).write_text(NO_STAGES[name])
    elif name == "latin-1":
        (root / name).write_bytes("stages: {größe: 1}".encode("latin-1"))
    assert cli.main(["data", "digits", "--stages", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name}: ")
    assert said.count("\n") == 1
