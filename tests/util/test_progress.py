"""Progress: one bar on a terminal, lines with the time in a log."""

import io
import re
import sys

import pytest

from d2v.util.progress import Progress, Relay, parse

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
TEXT = "loss 0.5000, target std 0.900, 12 examples/s"


class Terminal(io.StringIO):
    """A terminal that remembers what is written to it."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test itself: pytest sets sys.stdout again between a fixture and the test."""
    found = Terminal()
    monkeypatch.setattr(sys, "stdout", found)
    return found


def test_a_log_has_a_line_with_the_time_for_each_report(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(total=10)
    progress.say("resuming")
    progress.update(5, TEXT, rate=0.5)
    progress.close()
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(f"{STAMP}resuming", first)
    assert re.fullmatch(f"{STAMP}step 5/10  {TEXT}  ETA 0:00:10", second)
    assert parse(second) == ("step", 5, 10, TEXT)
    assert parse(first) is None


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(total=10, quiet=True)
    progress.say("resuming")
    progress.update(5, TEXT)
    assert capsys.readouterr().out == ""


def test_a_terminal_has_one_bar_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    progress = Progress(total=10, done=2)
    progress.update(5, TEXT, rate=0.5)
    progress.say("a checkpoint was skipped")
    progress.close()
    shown = terminal.getvalue()
    assert " 5/10 [" in shown
    assert TEXT in shown
    assert "a checkpoint was skipped\n" in shown
    assert shown.count("\n") == 2  # the message, and the bar that stays


def test_the_log_of_a_job_becomes_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    relay = Relay("pretrain/text/seed0")
    relay.show("2026-01-02 10:00:00  batch of 8")
    for step in (5, 10):
        relay.show(f"2026-01-02 10:00:00  step {step}/10  {TEXT}  ETA 0:00:10")
    relay.show("2026-01-02 10:00:01  step 10: accuracy 0.9")
    relay.close()
    shown = terminal.getvalue()
    assert "pretrain/text/seed0 | 2026-01-02 10:00:00  batch of 8\n" in shown
    assert " 10/10 [" in shown
    assert "step 10: accuracy 0.9\n" in shown
    assert "step 5/10" not in shown
    assert shown.count("\n") == 3


def test_the_log_of_a_job_is_passed_on_unchanged_in_a_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    relay = Relay("pretrain/text/seed0")
    line = f"2026-01-02 10:00:00  step 5/10  {TEXT}  ETA 0:00:10"
    relay.show(line)
    relay.close()
    assert capsys.readouterr().out == f"pretrain/text/seed0 | {line}\n"
