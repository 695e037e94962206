"""Finished runs of a shipped experiment with generated metrics: for tests of what shows them.

Nothing of this is a result: the numbers are drawn near the reported ones, so that tables and pages
can be looked at before anyone has run the paper's experiment.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from d2v import params
from d2v.evaluation.metrics import METRICS
from d2v.experiment import runs
from d2v.experiment.run import PretrainRun, Run

ROOT = Path(__file__).parents[2]
STEPS = 200


def fill(name: str, results: Path) -> params.Experiment:
    """Write the runs of `params/<name>.yaml` into a results folder."""
    experiment = params.load(ROOT / "params" / f"{name}.yaml")
    for run in runs.all_runs(experiment):
        write(run, results)
    return experiment


def write(run: Run, results: Path) -> None:
    """One finished run: metrics.json as d2v.experiment.execute writes it."""
    random = np.random.default_rng(zlib.crc32(run.id.encode()))
    content: dict[str, Any] = {
        "run": run.id,
        "metrics": {},
        "train_s": round(float(random.uniform(3e3, 9e4)), 2),
        "steps": STEPS,
        "loss": round(float(random.uniform(0.2, 0.4)), 5),
        "examples_per_s": round(float(random.uniform(800, 3000)), 2),
    }
    if not isinstance(run, PretrainRun):
        task = run.experiment.finetune[run.name]
        splits = ("dev",) if run.kind == "select" else ("test", *task.more.values())
        content["metrics"] = {
            split: {metric: _draw(metric, random) for metric in task.metrics} for split in splits
        }
        content["setting"] = {"lr": 1e-3, "steps": STEPS}
    path = results / "runs" / run.id / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _draw(metric: str, random: np.random.Generator) -> float:
    middle = 0.85 if METRICS[metric].higher_is_better else 0.07
    return round(float(np.clip(random.normal(middle, 0.01), 0, 1)), 5)
