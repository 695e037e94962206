"""`d2v doctor`: each topic says what is there, and errors are those that break something."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from d2v.cli import commands as cli
from d2v.jobs import machine, squeue


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of(check: object) -> machine.Finding:
    assert callable(check)
    [found] = check()
    assert isinstance(found, machine.Finding)
    return found


def test_versions_are_compared_with_the_lock(tmp_path: Path) -> None:
    assert of(machine._packages).state == "note"
    torch = machine._version("torch")
    assert torch is not None
    bare = torch.partition("+")[0]
    (tmp_path / "requirements.lock").write_text(f"torch=={bare} \\\n    --hash=sha256:0\n")
    assert of(machine._packages).state == "ok"
    (tmp_path / "requirements.lock").write_text("torch==0.0.1 \\\nnumpy==0.0.2 \\\n")
    found = of(machine._packages)
    assert found.state == "warning"
    assert f"torch {torch} (locked: 0.0.1)" in found.found


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    found = {finding.topic: finding for finding in machine._extras()}
    assert found["extra hf"].state == "note"
    assert found["extra hf"].advice == 'pip install "d2v[hf]"'


def test_more_threads_than_cores_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert of(machine._threads).state == "warning"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert of(machine._threads).state == "ok"


def test_another_encoding_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.locale, "getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    found = of(machine._locale)
    assert found.state == "warning"
    assert "LC_ALL=C.UTF-8" in found.advice


def test_a_folder_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = [*machine._disk()]
    assert {finding.state for finding in found} == {"error"}
    assert "cannot write" in found[0].found


def test_slurm_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert of(machine._slurm).state == "note"
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    calls: list[tuple[str, ...]] = []

    def ask(*words: str, timeout: float) -> "subprocess.CompletedProcess[str]":
        calls.append(words)
        code = len(calls) - 1
        return subprocess.CompletedProcess(words, code, "gpu* 4\ncpu 2\n", "no route\n")

    monkeypatch.setattr(squeue, "ask", ask)
    assert of(machine._slurm).found == "partitions gpu*, cpu"
    assert len(calls) == 1
    found = of(machine._slurm)
    assert (found.state, found.found) == ("warning", "the controller cannot be reached: no route")


def test_a_broken_library_is_an_error_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _gpu() -> None:
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(machine, "_gpu", _gpu)
    assert cli.main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["valid"]
    assert found["findings"][0]["topic"] == "python"
    last = found["findings"][-1]
    assert (last["topic"], last["state"]) == ("gpu", "error")
    assert "libcudart" in last["found"]
