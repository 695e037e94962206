"""What a job does before and after its run: locks, requeues, GPUs, its outcome."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from d2v.jobs import devices, job
from d2v.jobs.followed import Followed
from d2v.jobs.local import State
from d2v.util import locks
from d2v.util.errors import UserError
from d2v.util.files import read_json


def attempt(folder: Path, retries: int = 2) -> job.Job:
    return job.Job(Path("x"), "pretrain/text/seed0", "spec", folder, "a", True, 0, retries)


def test_a_lock_that_stays_is_named_with_its_holder_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "LOCK_S", 0.3)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    path = tmp_path / "lock"
    with job.locked(path):
        assert locks.holder(path) == os.getpid()
        with pytest.raises(UserError, match="gave up after 0 s") as told, job.locked(path):
            pass
    holder = f"held by process {os.getpid()} on {os.uname().nodename} (job 77) for 0:00:0"
    assert holder in str(told.value)
    said = capsys.readouterr().out
    assert holder in said
    assert "; waiting for it to end\n" in said
    with job.locked(path):  # it is free now
        pass


def test_requeues_without_progress_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in (0, 10, 20):  # progress before each: no end
        (tmp_path / f"checkpoints/step-{step}").mkdir()
        attempt(tmp_path)._idle_requeues()
    attempt(tmp_path)._idle_requeues()
    attempt(tmp_path)._idle_requeues()
    with pytest.raises(UserError, match="requeued 3 times in a row without a new checkpoint"):
        attempt(tmp_path)._idle_requeues()
    (tmp_path / "checkpoints/step-30").mkdir()
    attempt(tmp_path)._idle_requeues()


def test_requested_gpus_that_are_not_there_end_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H200, 535.1'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    devices.check(0)
    with pytest.raises(devices.NoGPU) as told:
        devices.check(2)
    said = str(told.value)
    assert said.startswith("n7: 2 GPUs requested, 0 usable: nvidia-smi lists 1 x NVIDIA H200, 535")
    assert "CUDA_VISIBLE_DEVICES is '3'" in said
    assert told.value.exit_code == 7


class Work:
    """A piece of work of a test."""

    name = request = "pretrain/text/seed0"
    spec, cpus = "spec", 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def test_a_record_that_cannot_be_written_does_not_end_the_launcher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from d2v.jobs.cluster import Cluster

    followed = Followed(Work(tmp_path), "local", Cluster())  # type: ignore[arg-type]
    followed.record = {"id": "1", "attempt": "a"}
    (tmp_path / "job.json").mkdir()  # cannot be replaced by a file
    followed._write()
    followed._note(State("running", "RUNNING"))
    assert "warning: writing" in capsys.readouterr().out


def test_an_outcome_is_written_when_the_disk_has_space_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda s: (tmp_path / "outcome.json").rmdir())
    (tmp_path / "outcome.json").mkdir()  # like a full disk: no file can be written
    attempt(tmp_path)._leave_word({"error": None, "exit_code": 0}, 0)
    assert (read_json(tmp_path / "outcome.json") or {})["attempt"] == "a"


def test_the_command_of_a_rule_fails_with_its_exit_code(tmp_path: Path) -> None:
    words = (Path(), "tables", "spec", tmp_path, "a")
    with pytest.raises(job.Failed) as told:
        job.Command(*words, command="false | cat; exit 0")._work()
    assert told.value.exit_code == 1
    job.Command(*words, command=f"command -v d2v > {tmp_path}/found")._work()
    found = Path((tmp_path / "found").read_text().strip())
    assert subprocess.run([found, "--help"], capture_output=True).returncode == 0
