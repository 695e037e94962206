"""Jobs on a real Slurm: one a run, through kills, refusals and losses. Stand-ins work."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from cluster import NODES, Cluster, until
from conftest import write_resources
from stand_in import RUN, Place, ended

pytestmark = pytest.mark.slow


def number(place: Place) -> str:
    """Id of the run's job, once it has one."""
    place.until(lambda: (place.work / "job.json").exists() and place.record()["id"])
    return str(place.record()["id"])


def test_a_job_runs_and_its_lines_are_shown(place: Place, cluster: Cluster) -> None:
    write_resources(place.folder, cpus="2", setup="[export D2V_GREETING=hello]")
    before = set(cluster.jobs())
    place.do("wait")
    process = place.launch()
    place.until(lambda: number(place) and place.record()["state"] == "running")
    assert place.state() == "running"
    place.do("finish")
    code, out, err = ended(process)
    assert (code, err) == (0, "")
    job = number(place)
    assert f"{RUN}: job {job} running on {NODES[0]}" in out
    assert f"{RUN} | working\n{RUN} | finished\n" in out
    assert set(cluster.jobs()) - before == {job}
    assert (place.folder / "starts").read_text().split()[1] == "2"  # threads
    record = place.record()
    assert (record["place"], record["array"], record["nodes"]) == ("slurm", None, NODES[0])
    script = next((place.work / "submitit").rglob("*submission.sh")).read_text()
    assert "export D2V_GREETING=hello" in script
    assert "--cpu-bind=none" in script
    assert place.state() == "done"


def test_a_container_starts_python(place: Place) -> None:
    # `env` is as good as a container: a command before python3, which it finds
    shim = place.folder / "image"
    shim.mkdir()
    (shim / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (shim / "python3").chmod(0o755)
    write_resources(place.folder, container=f"env PATH={shim}:/usr/bin:/bin")
    place.do("finish")
    assert ended(place.launch())[0] == 0


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"partition": "nosuch"}, "invalid partition specified: nosuch"),
        ({"account": "nosuch"}, "Invalid account or account/partition combination"),
        ({"gpus": "3"}, "Requested node configuration is not available"),
        ({"hours": "1000"}, "will never start: Slurm says PartitionTimeLimit"),
    ],
)
def test_a_cluster_that_refuses_is_told_once(
    place: Place, cluster: Cluster, resources: dict[str, str], said: str
) -> None:
    write_resources(place.folder, **resources)
    place.do("finish")
    begun = time.monotonic()
    code, _, err = ended(place.launch())
    assert code != 0
    assert err.count("\n") == 1
    assert said in err
    assert "params/cluster.yaml" in err
    assert time.monotonic() - begun < 60
    assert not cluster.queue()
    assert place.state() in ("refused", "stopped")


def test_a_silent_controller_is_told_within_a_minute(place: Place, cluster: Cluster) -> None:
    place.do("finish")
    cluster.stop_slurmctld()
    try:
        begun = time.monotonic()
        code, _, err = ended(place.launch(), seconds=90)
        assert time.monotonic() - begun < 60
    finally:
        cluster.start_slurmctld()
    assert code != 0
    assert "Slurm did not accept the job: `squeue` says slurm_load_jobs error: Unable to" in err
    assert err.count("\n") == 1
    until(lambda: cluster.call("squeue").returncode == 0, 20, "slurmctld")
    assert not cluster.queue()
    assert not place.starts()


def test_a_controller_that_comes_back_gets_the_job(place: Place, cluster: Cluster) -> None:
    place.do("finish")
    cluster.stop_slurmctld()
    try:
        process = place.launch()
        time.sleep(4)
    finally:
        cluster.start_slurmctld()
    assert ended(process)[0] == 0
    assert len(place.starts()) == 1


def test_interrupting_the_launcher_cancels_the_job(place: Place, cluster: Cluster) -> None:
    process = place.running()
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130
    until(lambda: not cluster.queue(), 20, "the job is still there")
    assert place.state() in ("stopped", "cancelled")


def test_scancel_is_told(place: Place, cluster: Cluster) -> None:
    process = place.running()
    job = number(place)
    cluster.ask("scancel", job)
    code, _, err = ended(process)
    assert code == 1
    assert f"{RUN}: job {job} was cancelled" in err
    assert len(place.starts()) == 1


def test_a_killed_task_is_submitted_again_but_not_for_ever(place: Place) -> None:
    write_resources(place.folder, retries="1")
    place.do("die")
    code, out, err = ended(place.launch(), seconds=90)
    assert code == 1
    assert "resubmitting because job " in out
    assert "ended without a result (FAILED); was it killed?" in out
    assert "ended without a result (FAILED); was it killed?" in err
    assert len(place.starts()) == 2


def test_a_failure_is_told_with_its_exit_code(place: Place, cluster: Cluster) -> None:
    place.do("collapse")
    code, _, err = ended(place.launch())
    assert (code, err) == (
        3,
        f"error: {RUN}: all the same (log: {Path('work/tiny')}/{RUN}/train.log)\n",
    )
    until(lambda: not cluster.queue(), 20, "the job is still there")
    listed = ("sacct", "-n", "-X", "-P", "-j", number(place), "-o", "State")
    until(lambda: cluster.ask(*listed) == "FAILED", 20, "sacct says something else")


def test_a_job_that_slurm_has_lost_is_submitted_again(place: Place, cluster: Cluster) -> None:
    place.do("wait")
    process = place.launch()
    job = number(place)
    # killed before it saves its state: it may not know the job when it comes back
    cluster.stop_slurmctld(signal.SIGKILL)
    for file in (cluster.folder / "ctld").glob("job_state*"):
        file.unlink()
    cluster.start_slurmctld()
    until(lambda: job not in cluster.queue(), 20, "slurmctld still knows the job")
    place.until(lambda: number(place) != job, 60)
    place.do("finish")
    code, out, err = ended(process, seconds=90)
    assert code == 0, out + err
    assert f"resubmitting because job {job} is unknown to Slurm" in out


def test_a_submission_that_was_cut_off_is_found(place: Place, cluster: Cluster) -> None:
    first = place.running()
    first.kill()
    first.communicate()
    job = number(place)
    record = place.record() | {"id": None}  # as if killed before it heard of the id
    (place.work / "job.json").write_text(json.dumps(record))
    place.attached()
    assert number(place) == job
    place.do("finish")
    assert ended(place.launched[-1])[0] == 0
    assert len(place.starts()) == 1


@pytest.mark.parametrize(
    ("resources", "said", "exit_code"),
    [
        ({"container": "/no/apptainer exec d2v.sif"}, "/no/apptainer: No such file", 1),
        ({"gpus": "1"}, "1 GPU requested, 0 usable", 7),  # the cluster's GPUs are none
    ],
)
def test_what_cannot_start_is_told_once(
    place: Place, resources: dict[str, str], said: str, exit_code: int
) -> None:
    write_resources(place.folder, **resources)
    place.do("finish")
    code, out, err = ended(place.launch())
    assert code == exit_code
    assert said in err
    assert "resubmitting" not in out
    assert said in (place.work / "launch.log").read_text()
    assert not place.starts()


def test_without_accounting_the_queue_is_enough(place: Place, cluster: Cluster) -> None:
    shims = place.folder / "shims"
    shims.mkdir()
    (shims / "sacct").write_text("#!/bin/sh\necho disabled >&2; exit 1\n")
    (shims / "sacct").chmod(0o755)
    place.environment["PATH"] = f"{shims}:{place.environment['PATH']}"
    write_resources(place.folder, retries="0")
    process = place.running()
    [task] = cluster.tasks(number(place))
    os.kill(task, signal.SIGKILL)
    code, _, err = ended(process)
    assert code == 1
    assert "was it killed?" in err
