"""Set-up: once, again after a change, anew after it was cut off."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from workspace import ROOT


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/venv.py in a folder of its own; `calls` are the commands that it would have run."""
    spec = importlib.util.spec_from_file_location("venv_tool", ROOT / "tools/venv.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.calls, module.code = [], 0  # type: ignore[attr-defined]

    def call(command: tuple[str, ...], **_: object) -> int:
        module.calls.append(command[-1])
        if "venv" in command:
            Path(command[-1]).mkdir()
        return module.code

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.subprocess, "call", call)
    monkeypatch.setattr(sys, "argv", ["venv.py", ".venv"])
    for source in module.SOURCES:
        Path(source).write_text(source)
    return module


def test_it_is_made_once(venv: ModuleType) -> None:
    venv.main()
    assert venv.calls == [".venv", "requirements.lock", "."]
    venv.main()
    assert len(venv.calls) == 3


def test_a_changed_lock_is_installed_into_what_is_there(venv: ModuleType) -> None:
    venv.main()
    Path(".venv/kept").touch()
    Path("requirements.lock").write_text("other")
    venv.main()
    assert venv.calls[3:] == ["requirements.lock", "."]
    assert Path(".venv/kept").exists()


def test_what_was_cut_off_is_made_anew(venv: ModuleType) -> None:
    venv.code = 1
    with pytest.raises(SystemExit, match="set-up stopped"):
        venv.main()
    Path(".venv").mkdir(exist_ok=True)
    Path(".venv/half").touch()
    venv.code = 0
    venv.main()
    assert not Path(".venv/half").exists()
    assert Path(".venv/.ready").exists()


def test_an_old_python_is_told(venv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv, "NEEDED", (99, 1))
    with pytest.raises(SystemExit, match=r"99\.1 or newer is needed"):
        venv.main()
    assert venv.calls == []
