"""`dvc metrics` and `dvc plots` on the runs' numbers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mock_paper
import pytest
import yaml
from mock_logs import write_logs

from d2v.experiment import runs
from d2v.results import summary
from d2v.results.page import records

ROOT = Path(__file__).parents[2]


def dvc(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_dvc_shows_metrics_and_curves_of_the_runs(tmp_path: Path) -> None:
    results = tmp_path / "results" / "mini"
    experiment = mock_paper.fill("mini", results)
    write_logs(experiment, results)
    summary.write(records.collect(experiment, results, results / "work"), results)

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    told = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    kept = {key: told[key] for key in ("metrics", "plots")}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(kept))

    shown = json.loads(dvc(tmp_path, "metrics", "show", "--json"))[""]["data"]
    for run in runs.reported_runs(experiment):
        stored = json.loads((results / "runs" / run.id / "metrics.json").read_text())
        path = f"results/mini/summary/metrics/{run.id}.json"
        assert shown[path]["data"] == stored["metrics"]
    plots = json.loads(dvc(tmp_path, "plots", "show", "--json"))["data"]
    curve = plots["results/mini/summary/curves/pretrain/vision/seed0.csv"][0]["content"]
    assert json.dumps(curve).count('"step"') > 100

    shutil.rmtree(results)
    summary.write([], results)
    assert "accuracy" not in dvc(tmp_path, "metrics", "show")


def test_nothing_stays_of_runs_that_are_gone(tmp_path: Path) -> None:
    experiment = mock_paper.fill("mini", tmp_path)
    summary.write(records.collect(experiment, tmp_path, tmp_path / "work"), tmp_path)
    assert [*(tmp_path / "summary" / "metrics").rglob("*.json")]
    summary.write([], tmp_path)
    assert [p.name for p in (tmp_path / "summary").rglob("*.json")] == ["files.json"]


def test_what_others_wrote_into_the_folder_stays(tmp_path: Path) -> None:
    experiment = mock_paper.fill("mini", tmp_path)
    outside = tmp_path / "seed9.json"
    theirs = [
        tmp_path / "summary" / name
        for name in ("notes.txt", "metrics/finetune/seed-of-doubt.json", "curves/mine/seed0.csv")
    ]
    for path in (outside, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    found = records.collect(experiment, tmp_path, tmp_path / "work")
    summary.write(found, tmp_path)
    summary.write([], tmp_path)
    for path in (outside, *theirs):
        assert path.read_text() == "mine"

    # a damaged or forged list removes nothing
    stored = tmp_path / "summary" / summary.FILES
    for text in ("[]", "{", "null", '{"files": 3}', '{"files": ["metrics/../../seed9.json", 7]}'):
        stored.write_text(text)
        summary.write([], tmp_path)
        assert outside.exists()
        assert json.loads(stored.read_text()) == {"files": []}
