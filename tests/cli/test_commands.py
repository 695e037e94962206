"""The command line: quick, and in one sentence when something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import ROOT

from d2v.cli import check
from d2v.cli import commands as cli
from d2v.util.errors import Collapse


def cpu_of_children() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def test_help_is_quick_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "d2v.cli", "--help"]
    times = []
    for _ in range(3):
        before = cpu_of_children()  # the wall clock would measure what else the machine does
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        times.append(cpu_of_children() - before)
    assert min(times) < 0.5
    assert all(name in shown for name in cli.COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["status"], ["check"], ["run", "x"], ["select", "x"]])
def test_light_commands_do_without_torch(words: list[str]) -> None:
    code = (
        f"import sys; from d2v.cli.commands import main; main({words});"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_wrong_parameters_are_one_error_with_all_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "tests/params/tiny.yaml").read_text()
    wrong = text.replace("title: tiny", "titel: tiny").replace("top_k: 2", "top_k: two")
    (tmp_path / "wrong.yaml").write_text(wrong)
    assert cli.main(["check", "--params", str(tmp_path / "wrong.yaml")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "titel: unknown key; did you mean title?" in told.err
    assert "pretrain.vision.target.top_k" in told.err


def test_exit_code_is_the_errors_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def collapse(args: object) -> None:
        raise Collapse("all the same")

    monkeypatch.setattr(check, "main", collapse)
    assert cli.main(["check"]) == Collapse.exit_code == 3
    assert capsys.readouterr().err == "error: all the same\n"
    monkeypatch.setenv("D2V_DEBUG", "1")
    with pytest.raises(Collapse):
        cli.main(["check"])


def test_commands_of_the_data_modules_get_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from d2v.cli import prepare

    seen: list[list[str]] = []
    monkeypatch.setattr(prepare, "main", seen.append)
    assert cli.main(["prepare", "corpus", "x", "-o", "y", "--block", "3"]) == 0
    assert seen == [["corpus", "x", "-o", "y", "--block", "3"]]


def test_status_counts_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", "--params", str(ROOT / "tests/params/tiny.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "20 missing"
    assert lines[1].split()[:3] == ["pretrain/vision/seed0", "missing", "-"]
