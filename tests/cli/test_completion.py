"""The completion script knows every command and option, and runs no d2v."""

import shutil
import subprocess
from pathlib import Path

import pytest

from d2v.cli import commands as cli

SHELLS = ("bash", "zsh", "tcsh")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)
    assert "utilisation" in shown  # tcsh leaves out the hyphens


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["d2v", "sta"], "status"),
        (["d2v", "plan", "--ut"], "--utilisation"),
        (["d2v", "prepare", "libri"], "librispeech"),
        (["d2v", "run", "--launch", "sl"], "slurm"),
        (["d2v", "check", "par"], "params"),
    ],
)
def test_bash_completes(
    typed: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params").mkdir()
    cli.main(["completion", "bash"])
    words = " ".join(f"'{word}'" for word in typed)
    script = (
        f"{capsys.readouterr().out}\nCOMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}\n"
        '_shtab_d2v d2v "${COMP_WORDS[COMP_CWORD]}"; printf \'%s\\n\' "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert expected in done.stdout.split(), done.stderr


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "fish"]) == 2
    assert "invalid choice: 'fish'" in capsys.readouterr().err
