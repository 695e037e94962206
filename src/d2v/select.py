"""Choose a fine-tuning's rate and steps from its grid, on the development split only."""

import statistics
from dataclasses import dataclass
from typing import Any

from d2v import metrics, runs
from d2v.errors import UserError
from d2v.files import read_json, write_json
from d2v.params import ARMS, Experiment, Setting


@dataclass(frozen=True)
class Point:
    """A setting and what it gave: the deciding metric's mean over the grid's seeds."""

    setting: Setting
    dev: dict[str, float]
    score: float


def choose(experiment: Experiment, name: str) -> None:
    """Write `chosen.json`: for each arm the best setting, its dev metrics, and all that was tried.

    Both arms choose from the same grid. Raises UserError for a task without a grid or when a point
    has not been run.
    """
    finetune = experiment.finetune.get(name)
    if finetune is None or finetune.grid is None:
        raise UserError(f"finetune.{name} has no grid to choose from")
    chosen = {}
    for arm in ARMS:
        points = [_point(experiment, name, arm, s) for s in finetune.grid.settings()]
        found = best(points, finetune.metrics[0])
        chosen[arm] = {
            **found.setting.model_dump(mode="json"),
            "dev": found.dev,
            "tried": [{**p.setting.model_dump(mode="json"), "dev": p.dev} for p in points],
        }
        print(f"{name}, {arm}: {found.setting.name}, dev {finetune.metrics[0]} {found.score:.4f}")
    write_json(runs.chosen_path(experiment, name), chosen)


def best(points: list[Point], metric: str) -> Point:
    """The point with the best mean; of equal ones the cheaper: fewer steps, then the lower rate."""
    cheap_first = sorted(points, key=lambda p: (p.setting.steps, p.setting.lr))
    found = cheap_first[0]
    for point in cheap_first[1:]:
        if metrics.better(metric, point.score, found.score):
            found = point
    return found


def _point(experiment: Experiment, name: str, arm: str, setting: Setting) -> Point:
    finetune = experiment.finetune[name]
    assert finetune.grid
    scores: list[dict[str, Any]] = []
    for seed in finetune.grid.seeds:
        path = runs.metrics_path(experiment, runs.Run("select", name, seed, arm, setting.name))
        found = read_json(path)
        if found is None:
            raise UserError(f"{path} is missing: run the workflow, which does every point first")
        scores.append(found["metrics"]["dev"])
    dev: dict[str, float] = {
        key: statistics.fmean(s[key] for s in scores) for key in finetune.metrics
    }
    return Point(setting, dev, dev[finetune.metrics[0]])
