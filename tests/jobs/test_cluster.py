"""`params/cluster.yaml`, and what is made of Slurm's words: without a Slurm."""

from pathlib import Path

import pytest

from d2v.jobs import cluster, job, slurm
from d2v.jobs.local import State
from d2v.params import ParamsError, load_as
from d2v.util.files import write_json

SQUEUE = """#!/bin/sh
[ -f squeue.fails ] && {{ cat squeue.fails >&2; exit 1; }}
printf '%-40s%-20s%-12s%-400s%-80s\\n' {row}
"""
SACCT = "#!/bin/sh\necho '{said}'\n"


def resources(folder: Path, text: str) -> cluster.Cluster:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return load_as(cluster.Cluster, path)


def test_the_shipped_file_is_valid() -> None:
    assert cluster.load().slurm.of("pretrain/vision/seed0").processes == 1
    assert cluster.load().slurm.of("data").gpus == 0


def test_overrides_fit_patterns_in_order(tmp_path: Path) -> None:
    found = resources(
        tmp_path,
        "slurm: {partition: a, gpus: 1, overrides: {pretrain/*: {nodes: 2, gpus: 8},"
        " pretrain/text*: {partition: b}, data: {gpus: 0, cpus: 4, memory_gb: 1.5}}}",
    ).slurm
    text = found.of("pretrain/text/seed0")
    assert (text.partition, text.nodes, text.gpus, text.processes) == ("b", 2, 8, 8)
    assert found.of("finetune/cola/scratch/seed0").nodes == 1
    words = {"slurm_partition": "a", "cpus_per_task": 4, "mem_mb": 1536, "runtime": 1440}
    assert found.of_rule("data") == words


def test_faults_are_told_with_their_path(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"slurm.partitions: unknown key; did you mean partition"):
        resources(tmp_path, "slurm: {partitions: a}")
    with pytest.raises(ParamsError, match=r"slurm\.overrides\.data\.gpu: unknown key"):
        resources(tmp_path, "slurm: {overrides: {data: {gpu: 1}}}")


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for Slurm's commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def say(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ("7 PENDING 1 '' BeginTime", State("queued", "PENDING", "BeginTime", "", 1)),
        ("7 RUNNING 0 n[1-2] None", State("running", "RUNNING", "", "n[1-2]", 0)),
        ("7 COMPLETING 0 n1 None", State("ending", "COMPLETING", "", "n1", 0)),
        ("7 NODE_FAIL 0 n1 NodeDown", State("ending", "NODE_FAIL", "NodeDown", "n1", 0)),
    ],
)
def test_the_queues_words(words: Path, row: str, state: State) -> None:
    say(words, "squeue", SQUEUE.format(row=row))
    assert slurm.look("7") == state


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("CANCELLED by 0|n1", State("ending", "CANCELLED", "", "n1")),
        ("RUNNING|n1", State("ending", "", "", "n1")),  # the accounting was not told that it died
        ("", State("ending")),
    ],
)
def test_a_job_that_left_the_queue_is_asked_for_in_the_accounting(
    words: Path, said: str, state: State
) -> None:
    say(words, "squeue", SQUEUE.format(row=""))
    (words / "squeue.fails").write_text("slurm_load_jobs error: Invalid job id specified")
    say(words, "sacct", SACCT.format(said=said))
    assert slurm.look("7") == state


def test_a_silent_controller_is_no_end_of_a_job(words: Path) -> None:
    say(words, "squeue", SQUEUE.format(row=""))
    (words / "squeue.fails").write_text("Unable to contact slurm controller (connect failure)")
    assert slurm.look("7") == State("unreachable")


def test_the_word_of_who_knew_why_counts(tmp_path: Path) -> None:
    def leave(name: str, error: str | None, **more: object) -> None:
        word = {"attempt": "a", "restarts": 1, "time": 1.0, "exit_code": 1, "lost_peer": False}
        write_json(tmp_path / name, {**word, "error": error, **more})

    assert job.word_of(tmp_path, "a") is None
    leave("outcome.json", "Connection closed by peer", lost_peer=True, time=0.5)
    leave("outcome-2.json", "no such file", time=0.9)
    leave("outcome-3.json", "of an earlier start", restarts=0, time=0.1)
    leave("outcome-4.json", "of another attempt", attempt="b", time=0.1)
    found = job.word_of(tmp_path, "a")
    assert found is not None
    assert found["error"] == "no such file"
