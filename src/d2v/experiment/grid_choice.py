"""Choose a fine-tuning's learning rate and steps from its grid, on the development split only."""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from d2v.evaluation import metrics
from d2v.evaluation.metrics import headline
from d2v.experiment import folders, runs, stored
from d2v.experiment.task_runs import GridRun
from d2v.params import Experiment, Setting
from d2v.util.errors import UserError
from d2v.util.files import write_json


@dataclass(frozen=True)
class Point:
    """A setting and its metrics on the development split, averaged over the grid's seeds."""

    setting: Setting
    dev: dict[str, float]
    score: float  # the metric that decides


def choose(experiment: Experiment, name: str) -> None:
    """Write `chosen.json`: for each arm the best setting, its dev metrics, and all points tried.

    Every arm chooses from the same grid by the task's first metric. With grid.best_over: table it
    takes the learning rate with the best mean score over all tasks of the row (paper 4.3). Raises
    UserError for a task without a grid, or if a point has not been run.
    """
    finetune = experiment.finetune.get(name)
    if finetune is None or finetune.grid is None:
        raise UserError(f"finetune.{name} has no grid to choose from")
    chosen: dict[str, Any] = {}
    for arm in finetune.arms:
        points = _points(experiment, name, arm)
        if finetune.grid.best_over == "table":
            found = points[_best_rate(experiment, name, arm)]
        else:
            try:
                found = best(points, finetune.metrics[0])
            except UserError as error:
                raise UserError(f"finetune.{name}, arm {arm}: {error}") from None
        chosen[arm] = {
            **found.setting.model_dump(mode="json"),
            "dev": found.dev,
            "tried": [{**p.setting.model_dump(mode="json"), "dev": p.dev} for p in points],
        }
        print(f"{name}, {arm}: {found.setting.name}, dev {finetune.metrics[0]} {found.score:.4f}")
    write_json(folders.chosen_path(experiment, name), chosen)


def best(points: list[Point], metric: str) -> Point:
    """The point with the best score; ties go to fewer steps, then to the lower learning rate.

    Raises UserError if the scores of all points are undefined.
    """
    if not any(math.isfinite(point.score) for point in points):
        raise UserError(_undefined(metric))
    cheap_first = sorted(points, key=lambda p: (p.setting.steps, p.setting.lr))
    found = cheap_first[0]
    for point in cheap_first[1:]:
        if metrics.better(metric, point.score, found.score):
            found = point
    return found


def _best_rate(experiment: Experiment, name: str, arm: str) -> int:
    """Grid index of the learning rate with the best mean score over the tasks of the row.

    Ties go to the lowest rate. Scores are those of the table: the mean of two metrics for a task
    that has two. Raises UserError if all means are undefined.
    """
    means = []
    tasks = runs.chosen_together(experiment, name)
    for place, rate in enumerate(experiment.finetune[name].grid.lr):  # type: ignore[union-attr]
        scores = []
        for task in tasks:
            dev = _points(experiment, task, arm)[place].dev
            scores.append(statistics.fmean(dev[m] for m in headline(experiment.finetune[task])))
        mean = statistics.fmean(scores)  # undefined if any score is; then any other is better
        means.append((-mean if math.isfinite(mean) else math.inf, rate, place))
    if math.isinf(min(means)[0]):
        raise UserError(f"finetune.{name}, arm {arm}: {_undefined('mean score of the row')}")
    return min(means)[2]


def _undefined(what: str) -> str:
    return f"{what} is undefined on the development split at every point of the grid"


def _points(experiment: Experiment, name: str, arm: str) -> list[Point]:
    """The points of a task's grid, in the grid's order."""
    grid = experiment.finetune[name].grid
    assert grid
    return [_point(experiment, name, arm, setting) for setting in grid.settings()]


def _point(experiment: Experiment, name: str, arm: str, setting: Setting) -> Point:
    finetune = experiment.finetune[name]
    assert finetune.grid
    scores: list[dict[str, Any]] = []
    for seed in finetune.grid.seeds:
        run = GridRun(experiment, name, seed, arm, setting.name)
        path = run.metrics_path
        found = stored.read(path, run.id)
        if found is None:
            raise UserError(f"{path} is missing; run the workflow, which runs every point first")
        if "dev" not in found["metrics"]:
            raise stored.Damaged(path, "no metrics of split dev")
        scores.append(found["metrics"]["dev"])
    dev: dict[str, float] = {
        key: statistics.fmean(_number(s.get(key)) for s in scores) for key in finetune.metrics
    }
    return Point(setting, dev, dev[finetune.metrics[0]])


def _number(value: Any) -> float:
    """A metric from metrics.json; NaN if it is missing or, being undefined, not a number."""
    return float(value) if isinstance(value, int | float) else math.nan
