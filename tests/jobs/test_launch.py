"""Jobs: one a run, through kills of anything. The job's work is a stand-in that needs no torch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from stand_in import RUN, Place, ended

from d2v.jobs import warm
from d2v.util import locks

pytestmark = pytest.mark.slow


@pytest.fixture(params=["anew", "warm"])
def place(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A place whose jobs start anew, or as copies of a warm process: nobody can tell."""
    monkeypatch.delenv(warm.VARIABLE, raising=False)
    found = Place(tmp_path)
    monkeypatch.setenv("PYTHONPATH", found.environment["PYTHONPATH"])
    with warm.serving(request.param == "warm") as more:
        found.until(lambda: all(Path(path).exists() for path in more.values()))
        found.environment |= more
        yield found
        found.leave()


def test_a_job_runs_and_its_lines_are_shown(place: Place) -> None:
    place.do("finish")
    code, out, err = ended(place.launch())
    assert (code, err) == (0, "")
    assert f"{RUN} | working\n{RUN} | finished\n" in out
    assert (place.folder / "results/tiny/runs" / RUN / "metrics.json").exists()
    assert (place.folder / "starts").read_text().split()[1] == "1"  # threads: cpus of the run
    assert place.state() == "done"


@pytest.mark.parametrize(
    ("what", "code", "sentence"),
    [
        ("collapse", 3, f"error: {RUN}: all the same (log: work/tiny/{RUN}/train.log)\n"),
        ("break", 1, f"error: {RUN}: RuntimeError: a bug (log: work/tiny/{RUN}/train.log)\n"),
    ],
)
def test_a_failure_is_told_with_its_exit_code(
    place: Place, what: str, code: int, sentence: str
) -> None:
    place.do(what)
    assert ended(place.launch())[::2] == (code, sentence)
    assert ("Traceback" in (place.work / "train.log").read_text()) == (what == "break")
    assert place.state() == "failed"


def test_a_killed_job_is_told_and_can_be_run_again(place: Place) -> None:
    place.do("die")
    code, _, err = ended(place.launch())
    assert code == 1
    assert "ended without a result; was it killed, or did it run out of memory?" in err
    assert place.state() == "stopped"
    place.do("finish")
    assert ended(place.launch())[0] == 0


def test_a_restarted_launcher_attaches_to_the_running_job(place: Place) -> None:
    first = place.running()
    first.kill()
    first.communicate(timeout=10)  # the job keeps none of its launcher's pipes open
    assert place.state() == "running"
    second = place.attached()
    place.do("finish")
    code, out, _ = ended(second)
    assert code == 0
    assert f"{RUN} | finished" in out
    assert len(place.starts()) == 1


def test_a_result_that_was_removed_while_the_job_ended_is_made_again(place: Place) -> None:
    place.running().kill()
    second = place.attached()
    place.do("end without result")
    code, _, _ = ended(second)
    assert code == 0
    assert len(place.starts()) == 2


def test_two_launchers_make_one_job(place: Place) -> None:
    place.do("wait")
    both = [place.launch(), place.launch()]
    place.until(place.starts)
    time.sleep(1)
    place.do("finish")
    assert [ended(process)[0] for process in both] == [0, 0]
    assert len(place.starts()) == 1


def test_a_task_that_outlives_its_controller_is_waited_for(place: Place) -> None:
    first = place.running()
    first.kill()
    os.kill(int(str(place.record()["id"])), signal.SIGKILL)
    second = place.attached()
    place.do("finish")
    assert ended(second)[0] == 0
    assert len(place.starts()) == 1


def test_a_job_without_its_record_is_not_run_beside(place: Place) -> None:
    place.running().kill()
    (place.work / "job.json").unlink()  # killed between submission and writing it down
    second = place.launch()
    place.until((place.work / "job.json").exists)
    time.sleep(1)
    assert len(place.starts()) == 1  # the second job waits for the first one's lock
    place.do("finish")
    assert ended(second)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_the_launcher_cancels_the_job(place: Place, number: signal.Signals) -> None:
    process = place.running()
    process.send_signal(number)
    assert ended(process)[0] == 130
    assert not locks.is_held(place.work / "lock")
    assert locks.process_start(place.starts()[0]) is None
    assert place.state() == "cancelled"


def test_a_job_with_other_parameters_is_cancelled(place: Place) -> None:
    place.running().kill()
    text = place.params.read_text()
    place.params.write_text(text.replace("start: 0.9,", "start: 0.8,"))
    second = place.launch()
    place.until(lambda: len(place.starts()) == 2)
    place.do("finish")
    code, out, _ = ended(second)
    assert code == 0
    assert "different parameters; cancelling it" in out


def test_a_process_id_that_came_back_is_no_job(place: Place) -> None:
    place.do("finish")
    assert ended(place.launch())[0] == 0
    record = place.record() | {"id": str(os.getpid())}  # alive, but started at another time
    (place.work / "job.json").write_text(json.dumps(record))
    assert ended(place.launch())[0] == 0
    assert len(place.starts()) == 2


def test_an_error_that_looks_like_a_lost_peer_is_told(place: Place) -> None:
    place.do("peer")
    code, _, err = ended(place.launch())
    assert code == 1
    assert "its last error: RuntimeError: NCCL communicator was aborted: a bug of rank 0" in err
    assert "a bug of rank 0" in (place.work / "launch.log").read_text()


def test_a_job_that_was_given_up_does_nothing(place: Place) -> None:
    place.do("finish")
    assert ended(place.launch())[0] == 0
    (place.work / "job.json").write_text(json.dumps(place.record() | {"attempt": "newer"}))
    (place.folder / f"results/tiny/runs/{RUN}/metrics.json").unlink()
    script = next((place.work / "submitit").glob("*/*_submitted.pkl"))
    words = [sys.executable, "-m", "submitit.core._submit", str(script.parent)]
    environment = place.environment | {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_NTASKS": "1"}
    for name, value in {"JOB_ID": script.name.partition("_")[0], "GLOBALRANK": "0"}.items():
        environment[f"SUBMITIT_LOCAL_{name}"] = value
    done = subprocess.run(
        words, cwd=place.folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert "replaced by another one; it exits" in done.stdout, done.stderr
    assert len(place.starts()) == 1


def test_claim_clears_a_dead_workflows_lock_but_not_a_living_ones(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "0.input.lock"
    code = f"import sys, time; from d2v.util import locks; from pathlib import Path;" \
        f"print(locks.claim(Path({str(tmp_path)!r})), flush=True); time.sleep(60)"  # fmt: skip
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "True\n"
        lock.touch()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "False\n"
            assert lock.exists()
            second.kill()
        living.kill()
    assert lock.exists()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as third:
        assert third.stdout is not None
        assert third.stdout.readline() == "True\n"
        assert not lock.exists()
        third.kill()


def test_a_workflow_waits_for_the_one_whose_caller_was_killed(tmp_path: Path) -> None:
    start = f"""
from contextlib import suppress
from pathlib import Path
from d2v.util import locks
locks.claim(Path({str(tmp_path)!r}), wait=True)
"""
    pass_on = (
        start
        + """
import subprocess, time
subprocess.Popen(["sleep", "3"], pass_fds=locks.claimed())
print("started", flush=True)
time.sleep(60)
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", pass_on], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        began = time.monotonic()
        first.kill()
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert done.returncode == 0
    assert "waiting for it to finish" in done.stdout
    assert time.monotonic() - began > 1.5


def command_of(pid: int | str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def stand_for(place: Place) -> list[int]:
    """Processes that stand for copies in this place."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").resolve() == place.folder:
                found += [int(entry.name)] if b"warm_start.py" in command_of(entry.name) else []
    return found


def test_nothing_is_left_of_a_process_whose_caller_was_killed(tmp_path: Path) -> None:
    code = "from d2v.jobs import warm\nwith warm.serving() as v: print(v['D2V_WARM']); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    caller = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)
    path = Path(caller.stdout.readline().decode().strip())
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()
    caller.kill()
    caller.communicate()
    while path.parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("place", ["warm"], indirect=True)
def test_a_copy_ends_with_the_process_that_stands_for_it(place: Place) -> None:
    place.running()
    (job,) = place.starts()
    assert b"d2v.jobs.warm" in command_of(job)
    (standing,) = stand_for(place)
    os.kill(standing, signal.SIGKILL)
    place.until(lambda: locks.process_start(job) is None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("place", ["warm"], indirect=True)
@pytest.mark.parametrize("name", ["PYTHONOPTIMIZE", "ATEN_CPU_CAPABILITY"])
def test_what_acts_at_the_start_is_not_copied(place: Place, name: str) -> None:
    place.environment[name] = "1"
    place.running()
    (job,) = place.starts()
    assert b"submitit.core._submit" in command_of(job)
    place.do("finish")
    place.until(lambda: place.state() == "done")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("place", ["warm"], indirect=True)
def test_a_copy_of_older_code_is_refused(place: Place, tmp_path: Path) -> None:
    """The code changed after the warm process had imported it."""
    connection = warm.Start(
        connection=socket.socket(), streams=[], program=[sys.executable, warm.warm_start.__file__],
        folder=str(tmp_path), environment=dict(os.environ), arguments=[], group=0,
    )  # fmt: skip
    assert warm._stands_for(connection, time.time(), dict(os.environ))
    assert not warm._stands_for(connection, Path(warm.__file__).stat().st_mtime, dict(os.environ))
    connection.environment["OPENBLAS_NUM_THREADS"] = "1"  # as Snakemake's jobs have it
    assert warm._stands_for(connection, time.time(), dict(os.environ))
    connection.program[0] = "/usr/bin/python3"
    assert not warm._stands_for(connection, time.time(), dict(os.environ))
