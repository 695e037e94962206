"""What a job does: a run of the experiment, or the command of a rule of the workflow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from d2v.experiment import finished
from d2v.experiment.run import Run
from d2v.jobs.job import Command, Job, word_of
from d2v.jobs.local import Launcher
from d2v.util.errors import UserError
from d2v.util.files import read_json, remove_file


class Work(Protocol):
    """A piece of work that one job does at a time."""

    @property
    def name(self) -> str:
        """Id of the run, or rule and wildcards."""

    @property
    def request(self) -> str:
        """What the patterns in params/cluster.yaml are compared with."""

    @property
    def folder(self) -> Path:
        """Where the jobs of this work keep their files."""

    @property
    def spec(self) -> str:
        """Fingerprint; a job with another one is cancelled."""

    @property
    def cpus(self) -> int:
        """CPUs per process unless params/cluster.yaml sets them."""

    def job(self, attempt: str, launcher: Launcher) -> Job:
        """A new attempt, as its launcher wants it."""

    def done(self) -> bool:
        """Whether the result is there and current."""

    def exists(self) -> bool:
        """Whether there is a result."""

    def clear(self) -> None:
        """Remove an old result before a new attempt."""


@dataclass(frozen=True)
class RunWork:
    """One run of an experiment."""

    file: Path  # parameters
    run: Run

    @property
    def name(self) -> str:
        return self.run.id

    @property
    def request(self) -> str:
        return self.run.id

    @property
    def folder(self) -> Path:
        return self.run.work

    @property
    def spec(self) -> str:
        return self.run.fingerprint()

    @property
    def cpus(self) -> int:
        return self.run.cpus

    def job(self, attempt: str, launcher: Launcher) -> Job:
        head = (self.file, self.name, self.spec, self.folder, attempt)
        return Job(*head, launcher.requeue, launcher.gpus, launcher.retries, launcher.stage)

    def done(self) -> bool:
        return finished.up_to_date(self.run)

    def exists(self) -> bool:
        return self.run.metrics_path.exists()

    def clear(self) -> None:
        remove_file(self.run.metrics_path)


@dataclass(frozen=True)
class RuleWork:
    """The shell command of a rule."""

    rule: str
    wildcards: Sequence[str]
    command: str
    outputs: Sequence[Path]
    cpus: int
    home: Path  # work folder of the experiment
    prepare: Callable[[], None] = field(compare=False)  # removes old outputs, creates folders

    @property
    def name(self) -> str:
        return "/".join((self.rule, *self.wildcards))

    @property
    def request(self) -> str:
        return self.rule

    @property
    def folder(self) -> Path:
        return self.home / "rules" / self.name

    @property
    def spec(self) -> str:
        return sha256(self.command.encode()).hexdigest()

    def job(self, attempt: str, launcher: Launcher) -> Job:
        head = (Path(), self.name, self.spec, self.folder, attempt)
        options = (launcher.requeue, launcher.gpus, launcher.retries, launcher.stage)
        return Command(*head, *options, command=self.command)

    def done(self) -> bool:
        record = read_json(self.folder / "job.json")
        word = word_of(self.folder, record["attempt"]) if record else None
        same = record is not None and record["spec"] == self.spec
        return self.exists() and same and word is not None and word["error"] is None

    def exists(self) -> bool:
        return all(path.exists() for path in self.outputs)

    def clear(self) -> None:
        self.prepare()


class JobError(UserError):
    """A job ended without a result; the message is the one that the job reported."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
