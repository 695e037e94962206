"""Time and memory of building tables and page from many finished runs.

    python benchmarks/results_page.py [--runs 400] [-o FILE]

The runs are generated in the shapes of params/paper.yaml with more seeds (mock_paper.py):
metrics, logs of 20,000 steps for pre-trainings and 2,000 for the others; one metrics.json cannot be
read. The goal: 400 runs in 20 seconds and 1 GB.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import reports

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/helpers"))
STEPS = {"pretrain": 20_000}


def many(count: int):  # type: ignore[no-untyped-def]
    """The paper's experiment with so many fine-tuning seeds that it has at least `count` runs."""
    from d2v import params
    from d2v.experiment import runs

    experiment = params.load(ROOT / "params" / "paper.yaml")
    seeds = 1
    while len(runs.all_runs(experiment)) < count:
        seeds += 1
        tasks = {
            name: task.model_copy(update={"seeds": list(range(seeds))})
            for name, task in experiment.finetune.items()
        }
        experiment = experiment.model_copy(update={"finetune": tasks})
    return experiment


def fill(experiment, folder: Path) -> int:  # type: ignore[no-untyped-def]
    """Metrics and logs of all its runs; returns how many there are."""
    import mock_paper

    from d2v.experiment import runs

    found = runs.all_runs(experiment)
    for run in found:
        mock_paper.write(experiment, run, folder)
        path = folder / "work" / run.id / "log.jsonl"
        path.parent.mkdir(parents=True)
        with path.open("w") as file:
            for step in range(1, STEPS.get(run.kind, 2_000) + 1):
                line = {
                    "step": step, "loss": 1 / step, "target_std": 0.9, "prediction_std": 0.5,
                    "encoder_std": 0.4, "lr": 1e-4, "grad_norm": 0.3, "ema_decay": 0.999,
                    "examples_per_s": 1000.0, "steps_per_s": 2.0,
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")
    (folder / "runs" / found[-1].id / "metrics.json").write_text("{")
    return len(found)


def build(experiment, folder: Path) -> None:  # type: ignore[no-untyped-def]
    """What `d2v tables` does."""
    from d2v.results import summary, tables
    from d2v.results.page import build, records

    found = records.collect(experiment, folder, folder / "work")
    summary.write(found, folder)
    build.build(
        experiment, folder, found, tables.build(experiment, folder, ROOT / "params/reported.csv")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("-o", "--out", type=reports.out)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    experiment = many(a.runs)
    if a.build:
        build(experiment, a.build)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = fill(experiment, folder)
        began = time.perf_counter()
        words = [sys.executable, __file__, "--runs", str(a.runs), "--build", name]
        subprocess.run(words, check=True, cwd=ROOT)
        seconds = time.perf_counter() - began
        mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        found = {
            "runs": count,
            "seconds": round(seconds, 1),
            "mib": round(mib),
            "page_mib": round((folder / "index.html").stat().st_size / 2**20, 1),
            "names_the_unreadable_file": "is unreadable" in (folder / "index.html").read_text(),
        }
    print(json.dumps(found))
    if a.out:
        reports.write(a.out, found)


if __name__ == "__main__":
    main()
