"""Every command names its experiment in the same two ways; --set works in all that take it."""

import re
import shutil
from pathlib import Path

import pytest
from workspace import ROOT

from d2v.cli import choice
from d2v.cli import commands as cli
from d2v.util.arguments import UsageError

TINY = str(ROOT / "tests/params/tiny.yaml")
LR = "pretrain.vision.optimiser.lr=1e-3"
# words after the parameter file
MORE = {"run": ["pretrain/vision/seed0"], "select": ["digits"], "units": ["vision"]}
ALL = ("check", "plan", "reproduce", "status", "run", "select", "units", "tables", "data")


def parsed(command: str, *words: str) -> choice.Chosen:
    parser = cli.function(command, "parser")
    assert callable(parser)
    args = parser().parse(words)
    if command == "data":
        args.targets = choice.shift(args, args.targets)
    return choice.of(args)


@pytest.mark.parametrize("command", ALL)
def test_a_file_is_named_in_either_way(command: str) -> None:
    more = MORE.get(command, [])
    for words in (
        [TINY, *more],
        ["--params", TINY, *more],
        [*more, "--params", TINY],
        ["-q", TINY],
    ):
        if more and words == ["-q", TINY]:
            continue
        assert parsed(command, *words).file == Path(TINY), words
    assert parsed(command, *more).file == choice.EXPERIMENT
    with pytest.raises(UsageError, match="name one parameter file"):
        parsed(command, TINY, "--params", "params/mini.yaml", *more)


def test_sets_of_data_are_not_files() -> None:
    parser = cli.function("data", "parser")
    assert callable(parser)
    args = parser().parse(["digits", "corpus"])
    assert choice.shift(args, args.targets) == ["digits", "corpus"]
    assert args.file is None
    args = parser().parse([TINY, "digits"])
    assert choice.shift(args, args.targets) == ["digits"]
    assert args.file == TINY


@pytest.mark.parametrize("command", [name for name in ALL if name != "data"])
def test_overrides_are_taken_everywhere(command: str) -> None:
    chosen = parsed(command, TINY, "--set", LR, *MORE.get(command, []), "--set", "title=x")
    assert chosen.sets == (LR, "title=x")


@pytest.mark.parametrize("command", ["check", "status", "plan"])
def test_commands_that_only_read_write_nothing(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, TINY, "--set", LR]) == 0
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_check_names_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # without stages that would have to write its sets
    assert cli.main(["check", TINY, "--set", LR]) == 0
    shown = capsys.readouterr().out
    assert f"{TINY} with pretrain.vision.optimiser.lr=0.001: valid" in shown
    assert re.search(r"^experiment tiny-set-[0-9a-f]{8}$", shown, re.MULTILINE)


def test_run_writes_into_the_folders_of_the_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`d2v run` passes on a file with the overrides; the file's own results stay as they are."""
    from d2v.jobs import launch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").touch()
    shutil.copy(TINY, tmp_path / "tiny.yaml")
    seen: list[tuple[Path, str, str, bool]] = []
    monkeypatch.setattr(launch, "run", lambda *words: seen.append(words))
    assert cli.main(["run", "tiny.yaml", "pretrain/vision/seed0", "--set", LR]) == 0
    [(path, *others)] = seen
    assert others == ["pretrain/vision/seed0", "local", False]
    assert re.fullmatch(r"results/tiny-set-\w{8}/params\.yaml", str(path))
    assert "results in results/tiny-set-" in capsys.readouterr().err
    assert cli.main(["run", "tiny.yaml", "pretrain/none/seed0", "--set", "title=y"]) == 2
    assert len(list((tmp_path / "results").iterdir())) == 1
