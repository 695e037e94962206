"""`d2v check` notes what has no effect, but is no error."""

from pathlib import Path

import pytest

from d2v.cli import commands as cli

TINY = str(Path(__file__).parents[1] / "params" / "tiny.yaml")


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        ("collapse.after", "9999", "collapse.after is more than train.steps and has no effect in"),
        ("train.rebound", "{factor: 2.0, steps: 9999}", "train.rebound.steps is more than"),
        ("train.rebound", "{factor: 2.0, steps: 1}", ""),
    ],
)
def test_safeguards_of_a_run_that_is_too_short_are_noted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: str,
    note: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # without stages that would have to write its sets
    assert cli.main(["check", TINY, "--set", f"pretrain.vision.{key}={value}"]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"note: {note}" if note else "")
    assert said.count("\n") == bool(note)
