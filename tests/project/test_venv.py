"""Set-up: with a Python that suits, once, again after a change, anew after it was cut off."""

import ast
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from workspace import ROOT

TOOLS = ROOT / "tools"
VERSION = "{}.{}".format(*sys.version_info)
HERE = {"path": sys.executable, "version": VERSION, "fault": None}


def load(name: str) -> ModuleType:
    """A module of tools/ (which Python's own `venv` is not)."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", TOOLS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("interpreter")
    monkeypatch.setitem(sys.modules, "interpreter", module)
    return module


@pytest.fixture
def venv(interpreter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/venv.py in a folder of its own; `calls` are the commands that it would have run."""
    module = load("venv")
    module.calls, module.code = [], 0  # type: ignore[attr-defined]

    def call(command: list[str], **_: object) -> int:
        module.calls.append(command[-1])
        if "venv" in command:
            Path(command[-1]).mkdir(exist_ok=True)
            Path(command[-1], "pyvenv.cfg").write_text(f"home = x\nversion = {VERSION}.7\n")
        if "download" in command:
            archive(Path(command[command.index("--dest") + 1]))
        return module.code

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.subprocess, "call", call)
    monkeypatch.setattr(sys, "argv", ["venv.py", ".venv"])
    for source in module.SOURCES:
        Path(source).write_text(source)
    return module


def archive(folder: Path) -> None:
    """some-1.2.tar.gz, whose set-up would compile."""
    folder.mkdir(parents=True)  # pip keeps what is there, which would not be told apart
    with tarfile.open(folder / "some-1.2.tar.gz", "w:gz") as file:
        info = tarfile.TarInfo("some-1.2/setup.py")
        info.size = 7
        file.addfile(info, io.BytesIO(b"compile"))


PACKAGES = [".venv/first.txt", ".venv/most.txt", "."]


def test_it_is_made_once(venv: ModuleType) -> None:
    venv.main()
    assert venv.calls == [".venv", *PACKAGES]
    venv.main()
    assert len(venv.calls) == 4


def test_a_changed_lock_is_installed_into_what_is_there(venv: ModuleType) -> None:
    venv.main()
    Path(".venv/kept").touch()
    Path("requirements.lock").write_text("other")
    venv.main()
    assert venv.calls[4:] == PACKAGES
    assert Path(".venv/kept").exists()


def test_what_was_cut_off_is_made_anew(venv: ModuleType) -> None:
    venv.code = 1
    with pytest.raises(SystemExit, match="set-up stopped"):
        venv.main()
    Path(".venv/half").mkdir()
    Path(".venv/half/file").touch()
    Path("elsewhere").mkdir()
    Path(".venv/lib64").symlink_to(Path("elsewhere").resolve())
    venv.code = 0
    venv.main()
    assert not Path(".venv/half").exists()
    assert Path("elsewhere").exists()
    assert Path(".venv/.ready").exists()


def test_a_folder_that_it_did_not_make_stays(venv: ModuleType) -> None:
    for name in ("photographs", "link", "file", "other"):
        venv.sys.argv[1:] = [name]
        if name == "file":
            Path(name).write_text("mine")
        elif name == "link":
            Path(name).symlink_to("photographs")
        else:
            Path(name).mkdir()
            Path(name, "pyvenv.cfg").write_text(f"version = {VERSION}.7\n")
        said = (
            f"^error: {name}: not made by this project; move it away, or choose another with VENV="
        )
        with pytest.raises(SystemExit, match=said):
            venv.main()
        assert not Path(f"{name}.lock").exists()
    assert Path("photographs/pyvenv.cfg").exists()
    assert venv.calls == []


def test_an_empty_folder_is_used_and_a_file_called_lock_keeps_its_content(venv: ModuleType) -> None:
    Path(".venv").mkdir()
    Path(".venv.lock").write_text("mine")
    venv.main()
    assert venv.calls == [".venv", *PACKAGES]
    assert Path(".venv.lock").read_text() == "mine"


@pytest.mark.parametrize("left", [".ready", "first.txt"])
def test_environments_from_before_the_mark_are_known(venv: ModuleType, left: str) -> None:
    Path("requirements.lock").write_text("setuptools==1\n")
    venv.main()
    for name in {".made-by-d2v", ".ready"} - {left}:
        Path(".venv", name).unlink()
    Path("pyproject.toml").write_text("changed")
    venv.main()
    assert venv.calls[4:] == [*([] if left == ".ready" else [".venv"]), *PACKAGES]
    assert Path(".venv/.made-by-d2v").exists()


def test_what_was_cut_off_in_an_update_is_known(venv: ModuleType) -> None:
    venv.main()
    Path(".venv/.made-by-d2v").unlink()
    Path("pyproject.toml").write_text("changed")
    venv.code = 1
    with pytest.raises(SystemExit, match="set-up stopped"):
        venv.main()
    venv.code = 0
    venv.main()
    assert Path(".venv/.ready").exists()


def test_for_another_python_it_is_made_anew_and_then_kept(
    venv: ModuleType, interpreter: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.main()
    Path(".venv/old").touch()
    other = {**HERE, "version": "3.99"}
    monkeypatch.setattr(interpreter, "ask", lambda python: other)
    monkeypatch.setattr(sys, "argv", ["venv.py", ".venv", "python3.99"])
    venv.main()
    assert not Path(".venv/old").exists()
    assert len(venv.calls) == 8
    monkeypatch.setattr(sys, "argv", ["venv.py", ".venv"])  # it is still that of the folder
    venv.main()
    assert len(venv.calls) == 8


def test_the_lock_is_installed_whole_and_what_builds_comes_first(venv: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    Path("requirements.lock").write_text(lock)
    apart = [name for names in venv.PYTHON_PART.values() for name in names]
    for name in (*venv.WITHOUT_WHEEL.split(","), *apart):
        assert f"\n{name}==" in lock
    venv.main()
    first, most = (Path(f".venv/{name}.txt").read_text() for name in ("first", "most"))
    assert [line for line in first.splitlines() if line[0] not in " #"] == [
        line for line in lock.splitlines() if line.startswith("setuptools==")
    ]
    assert most.split() == lock.split()


def test_a_package_without_a_wheel_is_installed_without_its_compiled_part(
    venv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venv, "PYTHON_PART", {VERSION: ["some"]})
    Path("requirements.lock").write_text("a==1\nsome==1.2 \\\n    --hash=x\nsome-more==3\n")
    venv.main()
    assert Path(".venv/most.txt").read_text() == "a==1\nsome-more==3\n"
    source = ".venv/sources/some/some-1.2"
    assert venv.calls[3:] == [".venv/some.txt", source, "."]
    assert Path(source, "setup.py").read_text().endswith("setuptools.setup(version='1.2')\n")
    Path("pyproject.toml").write_text("changed")
    venv.main()
    assert venv.calls[6:] == [".venv/first.txt", ".venv/most.txt", ".venv/some.txt", source, "."]


# --- which Python -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"OLDEST": (99, 1), "NEWEST": (99, 2)}, r"too old: one of 99\.1 to 99\.2 is needed"),
        ({"NEWEST": (3, 10)}, r"no wheels yet: one of 3\.11 to 3\.10 is needed"),
        ({"platform.python_implementation": lambda: "PyPy"}, "is PyPy"),
        ({"sysconfig.get_config_var": lambda name: 1}, "without GIL"),
        ({"sys.maxsize": 2**31 - 1}, "a 32-bit build"),
        ({"platform.machine": lambda: "riscv64"}, "riscv64, for which PyTorch has no wheels"),
        ({"platform.system": lambda: "Windows"}, "on Windows"),
        ({"os.confstr": lambda name: "glibc 2.17"}, r"without glibc 2\.28"),
        ({"os.confstr": lambda name: int("musl")}, r"without glibc 2\.28"),
        ({"missing": lambda name: name == "ensurepip"}, rf"install python{VERSION}-venv"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_done(
    venv: ModuleType,
    interpreter: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr(interpreter, "OTHERS", ("python-absent",))
    with monkeypatch.context() as patched:
        for name, value in changes.items():
            *module, attribute = name.split(".")
            patched.setattr(
                getattr(interpreter, *module) if module else interpreter, attribute, value
            )
        with pytest.raises(SystemExit, match=said) as raised:
            venv.main()
    assert str(raised.value).startswith("error: ")
    assert "make PYTHON=" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert venv.calls == []
    assert not Path(".venv.lock").exists()


def test_the_best_of_the_others_is_taken(
    interpreter: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = {"python3.12": {**HERE, "path": "twelve"}, "python3.11": {**HERE, "path": "eleven"}}
    monkeypatch.setattr(interpreter, "ask", there.get)
    assert interpreter.choose("absent", None)["path"] == interpreter.describe()["path"]
    monkeypatch.setattr(interpreter, "reason", lambda path, version: "python3 is bad")
    assert interpreter.choose("absent", None)["path"] == "twelve"
    assert capsys.readouterr().out == "set-up: python3 is bad; using python3.12 instead\n"
    assert interpreter.choose("absent", "python3.11")["path"] == "eleven"
    assert capsys.readouterr().out == ""  # nothing is used "instead" of the one that was named
    with pytest.raises(SystemExit, match=r"python3\.10: not a working Python"):
        interpreter.choose("absent", "python3.10")


def test_another_python_speaks_for_itself(interpreter: ModuleType, tmp_path: Path) -> None:
    assert interpreter.ask(sys.executable) == json.loads(json.dumps(interpreter.describe()))
    assert interpreter.ask(str(tmp_path / "absent")) is None
    assert interpreter.ask("false") is None


def olds() -> list[Path]:
    """Pythons of pyenv, where there are any, that are too old."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    versions = [(p, p.name.split(".")[:2]) for p in sorted(root.glob("*.*"))]
    numbered = [(p, v) for p, v in versions if all(part.isdigit() for part in v)]
    return [p / "bin/python" for p, v in numbered if tuple(map(int, v)) < (3, 11)]


@pytest.mark.slow
@pytest.mark.parametrize("python", olds(), ids=lambda p: p.parts[-3])
def test_an_old_python_refuses_itself_and_chooses_another(python: Path, tmp_path: Path) -> None:
    command = [str(python), str(TOOLS / "venv.py"), str(tmp_path / "v"), str(python)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "which is too old: one of 3.11 to 3.14 is needed" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["interpreter.py", "venv.py"])
def test_any_python_can_read_it(name: str) -> None:
    new = (ast.JoinedStr, ast.Starred, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef)
    source = (TOOLS / name).read_text()
    assert source.isascii()
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, new), f"{name}:{node.lineno}"
        if isinstance(node, ast.arguments):
            assert not node.kwonlyargs
