"""The report of `d2v plan`: one line per kind of run, totals per table, and disk space."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from d2v.data.summary import amount
from d2v.jobs import plan
from d2v.jobs.compared import Comparison
from d2v.jobs.plan import Job, Speed
from d2v.params import Experiment
from d2v.params.speech import MEAN_S
from d2v.params.text import LABELLED_TOKENS
from d2v.results.columns import aligned

JOBS = ["", "runs", "updates", "examples", "FLOP", "GPUs", "GPU-hours", "CPU-hours", "jobs"]
TOTALS = ["total by the table that needs it", "FLOP", "GPU-hours", "CPU-hours"]


def report(
    experiment: Experiment,
    jobs: Sequence[Job],
    speed: Speed,
    compared: Sequence[Comparison] = (),
) -> str:
    """Text report of the jobs, comparisons, totals, and the assumptions of the estimate."""
    shapes = _grouped(jobs, lambda job: "/".join(job.run.split("/")[:2]))
    tables = _grouped(jobs, lambda job: job.table) | {"all": list(jobs)}
    return "\n".join(
        [
            f"{experiment.title}: estimated cost",
            f"speed: {speed.source}",
            "columns updates to jobs: for the longest single run of each line",
            "jobs: consecutive jobs, each limited to the hours set in params/cluster.yaml",
            "FLOP: counted from the models, student forward and backward, teacher forward;"
            " no validation",
            f"assumed: no waiting for data, utterances of {MEAN_S} s,"
            f" {LABELLED_TOKENS} tokens per labelled text,",
            f"  {plan.DECODING} core-seconds to decode a second of speech with a beam of 500",
            "",
            *aligned([JOBS, *(_line(name, group) for name, group in shapes.items())]),
            "",
            *_compared(experiment, compared),
            *aligned([TOTALS, *(_total(name, group) for name, group in tables.items())]),
            "",
            _disk(experiment, jobs),
        ]
    )


def _compared(experiment: Experiment, compared: Sequence[Comparison]) -> list[str]:
    """Lines that compare pre-trainings with those of the other experiment, if there are any."""
    if not compared:
        return []
    assert experiment.compare is not None
    here, there = experiment.name, Path(experiment.compare.file).stem
    heads = [f"FLOP, {there}", f"FLOP, {here}", f"GPU-hours, {there}", f"GPU-hours, {here}"]
    rows = [
        [
            f"pretrain/{one.pretrain}",
            f"{1e15 * one.other_pflop:.2g}",
            f"{1e15 * one.pflop:.2g}",
            _hours(one.other_gpu_hours),
            _hours(one.gpu_hours),
            f"{one.ratio:.2f}",
        ]
        for one in compared
    ]
    title = f"one seed, compared with {experiment.compare.file}"
    return [*aligned([[title, *heads, "ratio of hours"], *rows]), ""]


def _disk(experiment: Experiment, jobs: Sequence[Job]) -> str:
    """Line on disk space: sets that are prepared are measured, the others estimated."""
    named: dict[str, list[str]] = {"prepared": [], "estimated": [], "unknown": []}
    total = 0.0
    for name, (size, measured) in plan.disk(experiment, jobs).items():
        if size is None:
            named["unknown"].append(name)
            continue
        total += size
        named["prepared" if measured else "estimated"].append(f"{name} {amount(1e9 * size)}")
    parts = "; ".join(f"{words}: {', '.join(found)}" for words, found in named.items() if found)
    sets = f"prepared sets {amount(1e9 * total)} ({parts})" if parts else "no prepared sets"
    checkpoints = amount(1e9 * sum(job.disk_gb for job in jobs))
    return f"disk: {sets}, checkpoints {checkpoints}"


def _grouped(jobs: Iterable[Job], key: Callable[[Job], str]) -> dict[str, list[Job]]:
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(key(job), []).append(job)
    return groups


def _line(name: str, group: Sequence[Job]) -> list[str]:
    return [
        name,
        f"{len(group):,}",
        f"{max(job.updates for job in group):,}",
        f"{max(job.examples for job in group):.3g}",
        f"{1e15 * max(job.pflop for job in group):.2g}",
        f"{max(job.gpus for job in group)}",
        _hours(max(job.gpu_hours for job in group)),
        _hours(max(job.cpu_hours for job in group)),
        f"{max(job.links for job in group)}",
    ]


def _total(name: str, group: Sequence[Job]) -> list[str]:
    return [
        name,
        f"{1e15 * sum(job.pflop for job in group):.2g}",
        _hours(sum(job.gpu_hours for job in group)),
        _hours(sum(job.cpu_hours for job in group)),
    ]


def _hours(value: float) -> str:
    """Hours for display; small values are shown as <0.1, so that only zero is shown as 0."""
    if 0 < value < 0.05:
        return "<0.1"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:,.1f}"
