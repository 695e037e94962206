"""Cost of the runs: hours, examples per second, operations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from d2v.params import Experiment
from d2v.results.page.records import Record


@dataclass(frozen=True)
class Cost:
    """Total cost of all runs of one name."""

    name: str
    finished: int
    planned: int
    hours: float  # wall time of training
    examples_per_s: float  # mean over the finished runs
    pflop: float  # operations of the planned runs, counted from the model (d2v plan)
    device: str


def operations(experiment: Experiment) -> dict[str, float]:
    """PFLOP of every run, counted from its model."""
    from d2v.jobs import plan

    speed = plan.speed_of("h100", 0.4, None)  # which the counts do not depend on
    return {job.run: job.pflop for job in plan.plan(experiment, speed)}


def rows(found: Sequence[Record], operations: Mapping[str, float]) -> list[Cost]:
    """One line per name of runs, followed by the total."""
    costs = []
    for (kind, name), group in groupby(found, lambda r: (r.run.kind, r.run.name)):
        costs.append(_cost(f"{kind}/{name}", list(group), operations))
    total = Cost(
        "all",
        sum(c.finished for c in costs),
        sum(c.planned for c in costs),
        sum(c.hours for c in costs),
        0.0,
        sum(c.pflop for c in costs),
        "",
    )
    return [*costs, total]


def _cost(name: str, members: list[Record], operations: Mapping[str, float]) -> Cost:
    done = [record for record in members if record.finished]
    rates = [r.content["examples_per_s"] for r in done if r.content.get("examples_per_s")]
    devices = {(r.content.get("provenance") or {}).get("device", "") for r in done}
    return Cost(
        name,
        len(done),
        len(members),
        sum(r.content.get("train_s") or 0.0 for r in done) / 3600,
        sum(rates) / len(rates) if rates else 0.0,
        sum(operations[record.run.id] for record in members),
        ", ".join(sorted(filter(None, devices))),
    )
