"""The cost of pre-trainings compared with those of another experiment, for `d2v plan`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from d2v import params
from d2v.jobs.plan import Job, Speed, pretraining
from d2v.params import Experiment
from d2v.params.faults import nearest
from d2v.util.errors import UserError


@dataclass(frozen=True)
class Comparison:
    """Cost of one seed of a pre-training, and of those of the other experiment."""

    pretrain: str  # name in this experiment
    others: tuple[str, ...]  # names in the other one; their costs are added
    pflop: float  # 1e15 operations
    gpu_hours: float
    other_pflop: float
    other_gpu_hours: float

    @property
    def ratio(self) -> float:
        """GPU-hours, relative to those of the other experiment."""
        return self.gpu_hours / self.other_gpu_hours


def comparisons(experiment: Experiment, jobs: Sequence[Job], speed: Speed) -> list[Comparison]:
    """Compare the pre-trainings among `jobs`; those without a counterpart are left out.

    `experiment.compare` says with which. Raises UserError for a name that the other file does not
    have, and ParamsError for an invalid file.
    """
    if experiment.compare is None:
        return []
    other = params.load(experiment.compare.file)
    return [
        Comparison(
            name, tuple(names), job.pflop, job.gpu_hours,
            sum(there.pflop for there in costs), sum(there.gpu_hours for there in costs),
        )
        for name, job in _pretrainings(jobs)
        if (names := _counterparts(experiment.compare, name, other))
        and (costs := [pretraining(other, there, speed) for there in names])
    ]  # fmt: skip


def _pretrainings(jobs: Sequence[Job]) -> Iterator[tuple[str, Job]]:
    """Name and first job of every pre-training."""
    found: dict[str, Job] = {}
    for job in jobs:
        kind, name, *_ = job.run.split("/")
        if kind == "pretrain" and job.pflop:
            found.setdefault(name, job)
    yield from found.items()


def _counterparts(compare: params.Compare, name: str, other: Experiment) -> list[str]:
    if name not in compare.names:
        return [name] if name in other.pretrain else []
    for there in compare.names[name]:
        if there not in other.pretrain:
            raise UserError(
                f"compare.names.{name}: {compare.file} has no pretrain.{there}"
                f"{nearest(there, other.pretrain)}"
            )
    return compare.names[name]
