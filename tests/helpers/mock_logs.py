"""Logs of finished runs, generated."""

import json
from pathlib import Path

from d2v import params
from d2v.experiment import runs


def write_logs(experiment: params.Experiment, folder: Path, steps: int = 600) -> None:
    """A log for every run."""
    for run in runs.all_runs(experiment):
        path = folder / "work" / run.id / "log.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            {"step": step, "loss": 1 / step, "target_std": 0.9, "prediction_std": 0.5}
            | ({"validation": {"accuracy": 0.5}} if step % 200 == 0 else {})
            for step in range(1, steps + 1)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
