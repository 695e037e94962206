"""`params/cluster.yaml`, and what is made of Slurm's words: without a Slurm."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from d2v.jobs import cluster, job, sbatch, slurm, squeue
from d2v.jobs.local import Busy, State, pause_s
from d2v.params import ParamsError, load_as
from d2v.util.errors import UserError
from d2v.util.files import write_json

# counts its calls; says what the file says, or fails with the text of another one
STAND_IN = """#!/bin/sh
echo >> {name}.calls
[ -f {name}.fails ] && {{ cat {name}.fails >&2; exit 1; }}
cat {name}.says
"""


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
    data = found.of("data")
    assert (data.partition, data.cpus, data.memory_gb, data.gpus) == ("a", 4, 1.5, 0)
    tables = found.of("tables")  # a rule gets no GPU that it is not given
    assert (tables.nodes, tables.gpus, tables.processes) == (1, 0, 1)


def test_gpus_have_a_type_or_not(tmp_path: Path) -> None:
    found = resources(tmp_path, "slurm: {gpus: a100:2}").slurm.of("pretrain/text/seed0")
    assert (found.gpu_count, found.processes) == (2, 2)
    with pytest.raises(ParamsError, match=r"slurm\.gpus"):
        resources(tmp_path, "slurm: {gpus: a100}")


def test_faults_are_told_with_their_path(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"slurm.partitions: unknown key; did you mean partition"):
        resources(tmp_path, "slurm: {partitions: a}")
    with pytest.raises(ParamsError, match=r"slurm\.overrides\.data\.gpu: unknown key"):
        resources(tmp_path, "slurm: {overrides: {data: {gpu: 1}}}")


class Words:
    """Stand-ins of squeue and sacct in a folder, and the question that asks them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("squeue", "sacct"):
            (folder / name).write_text(STAND_IN.format(name=name))
            (folder / name).chmod(0o755)
            self.say(name)

    def say(self, name: str, *rows: str) -> None:
        (self.folder / f"{name}.says").write_text("".join(f"{row}\n" for row in rows))

    def fail(self, said: str) -> None:
        (self.folder / "squeue.fails").write_text(said)

    def calls(self) -> int:
        files = self.folder.glob("*.calls")
        return sum(file.read_text().count("\n") for file in files)

    def question(self, poll_s: float = 0.01) -> squeue.Question:
        return squeue.Question(poll_s, self.folder)


def row(*cells: str) -> str:
    """A line of squeue."""
    widths = squeue.FIELDS.values()
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Words:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(squeue, "LOOK_S", 0.0)
    return Words(tmp_path)


def settled(question: squeue.Question, number: str) -> State:
    """State of a job after squeue and, if it is missing there, sacct have been asked."""
    for _ in range(4):
        question.state(number)
        time.sleep(0.02)
    return question.state(number)


@pytest.mark.parametrize(
    ("cells", "state"),
    [
        (("PENDING", "1", "", "BeginTime"), State("queued", "PENDING", "BeginTime", "", 1)),
        (("RUNNING", "0", "n[1-2]", "None"), State("running", "RUNNING", "", "n[1-2]", 0)),
        (("COMPLETING", "0", "n1", "None"), State("ending", "COMPLETING", "", "n1", 0)),
        (("NODE_FAIL", "0", "n1", "Down"), State("ending", "NODE_FAIL", "Down", "n1", 0)),
    ],
)
def test_the_queues_words(words: Words, cells: tuple[str, ...], state: State) -> None:
    words.say("squeue", row("7_3", *cells, "d2v ab"))
    question = words.question()
    assert settled(question, "7_3") == state
    assert question.named("d2v ab", 0.0) == (True, "7")


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("7|CANCELLED by 0|n1", State("ending", "CANCELLED", "", "n1")),
        ("7|RUNNING|n1", State("ending", "", "RUNNING", "n1")),  # it was not told that it died
        ("", State("ending")),
    ],
)
def test_a_job_that_left_the_queue_is_asked_for_in_the_accounting(
    words: Words, said: str, state: State
) -> None:
    words.say("sacct", said)
    assert settled(words.question(), "7") == state


def test_a_silent_controller_is_no_end_of_a_job(words: Words) -> None:
    words.fail("Unable to contact slurm controller (connect failure)")
    question = words.question()
    assert settled(question, "7") == State("unreachable")
    assert question.known.said == "Unable to contact slurm controller (connect failure)"


def test_workflows_share_one_question(words: Words) -> None:
    words.say("squeue", row("7", "RUNNING", "0", "n1", "None", ""))
    first, second = words.question(poll_s=30), words.question(poll_s=30)
    for _ in range(20):
        assert first.refresh().jobs["7"].phase == "running"
        assert second.refresh().jobs["7"].phase == "running"
    assert words.calls() == 1


def test_questions_become_rarer_while_nothing_changes_or_answers(words: Words) -> None:
    words.say("squeue", row("7", "RUNNING", "0", "n1", "None", ""))
    question = words.question(poll_s=10)
    known = question.refresh()
    assert question._next(known) == known.tried + 10
    assert question._next(replace(known, even=6)) == known.tried + 20
    assert question._next(replace(known, even=100)) == known.tried + 60
    assert question._next(replace(known, failed=4)) == known.tried + 10
    assert question._next(replace(known, failed=5)) == known.tried + 20
    assert question._next(replace(known, failed=9)) == known.tried + 60
    question.soon = True
    assert question._next(replace(known, even=100)) == known.tried + 10


def test_pauses_grow_after_some_failures() -> None:
    assert [pause_s(n, 15, 120) for n in (1, 4, 5, 6, 7, 8, 1000)] == [
        15,
        15,
        30,
        60,
        120,
        120,
        120,
    ]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("AssocMaxSubmitJobLimit Job violates accounting/QOS policy (job submit limit)", "limit"),
        ("QOSMaxSubmitJobPerUserLimit", "limit"),
        ("Socket timed out on send/recv operation", "busy"),
        ("Unable to contact slurm controller (connect failure)", "busy"),
        ("Slurm temporarily unable to accept job, sleeping and retrying", "busy"),
        ("Invalid account or account/partition combination specified", "refused"),
        ("QOSMaxWallDurationPerJobLimit Job violates accounting/QOS policy", "refused"),
    ],
)
def test_what_passes_is_no_refusal(
    words: Words, monkeypatch: pytest.MonkeyPatch, said: str, kind: str
) -> None:
    (words.folder / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {said}' >&2; exit 1\n")
    (words.folder / "sbatch").chmod(0o755)
    (words.folder / "srun").symlink_to("sbatch")
    monkeypatch.setattr(slurm, "_question", lambda poll_s: words.question())
    launcher = slurm.Slurm(cluster.Cluster(), "pretrain/text/seed0", words.folder)
    one = job.Job(Path("x"), "pretrain/text/seed0", "spec", words.folder, "a")
    with pytest.raises(UserError if kind == "refused" else Busy) as told:
        launcher.submit(words.folder / "batch", [one, one], 1)
    assert getattr(told.value, "limit", False) == (kind == "limit")
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("state", "requeue", "said", "word"),
    [
        (
            State("ended", "TIMEOUT"),
            "false",
            "was interrupted (TIMEOUT), and requeue",
            "out of time",
        ),
        (State("ended", "CANCELLED"), "true", "was cancelled", "cancelled"),
        (State("ended", "OUT_OF_MEMORY"), "true", "memory_gb", "out of memory"),
        (State("ended", "FAILED", "BadConstraints"), "true", "will never start", "refused"),
        (State("ended", "FAILED"), "true", "/bin/apptainer: No such file", "stopped"),
    ],
)
def test_every_end_has_a_word(
    tmp_path: Path, state: State, requeue: str, said: str, word: str
) -> None:
    found = resources(tmp_path, f"slurm: {{requeue: {requeue}}}")
    launcher = slurm.Slurm(found, "pretrain/text/seed0", tmp_path)
    log = "submitit starts\n\nslurmstepd: error: execve(): /bin/apptainer: No such file\n"
    (tmp_path / "5_0_log.out").write_text(log)
    ending = launcher.ending({"id": "5", "attempt": "a"}, state, tmp_path)
    assert said in ending.said
    assert ending.state == word
    assert ending.again == 0


def test_types_of_gpus_and_options_of_srun_are_asked_for(tmp_path: Path) -> None:
    text = "slurm: {gpus: a100:2, srun: [--container-image=d2v.sqsh], at_once: 3}"
    found = resources(tmp_path, text).slurm.of("pretrain/text/seed0")
    asked = sbatch.Submission(tmp_path, found, "name", "batch", 4).request()
    assert asked["gpus_per_node"] == "a100:2"
    assert asked["ntasks_per_node"] == 2
    assert asked["srun_args"][-1] == "--container-image=d2v.sqsh"
    assert asked["array_parallelism"] == 3


def test_ids_of_an_array_are_joined() -> None:
    records = [{"id": f"12_{i}", "array": "12"} for i in (0, 1, 2, 7)]
    records.append({"id": "9", "array": None})
    assert slurm._expressions(records) == ["9", "12_[0-2,7]"]


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
