"""The whole miniature workflow through `snakemake --profile slurm`, killed once on its way."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, until
from conftest import write_resources

from d2v import params
from d2v.experiment import runs

pytestmark = pytest.mark.slow
COMMAND = ["snakemake", "--profile", "slurm", "--config", "experiment=params/tiny.yaml"]


def start(folder: Path, cluster: Cluster, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *COMMAND, *words],
        cwd=folder,
        env=os.environ | cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_whole_workflow_runs_on_the_cluster(folder: Path, cluster: Cluster) -> None:
    write_resources(folder, memory_gb="0.7", setup="[export D2V_GREETING=hello]")
    path = folder / "params/tiny.yaml"
    path.write_text(path.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    experiment = params.load(path)
    first = start(folder, cluster)
    results = folder / "results/tiny/runs"
    until(lambda: list(results.glob("pretrain/*/*/metrics.json")), 120, "no run has ended")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = start(folder, cluster)
    said, _ = second.communicate(timeout=400)
    assert second.returncode == 0, said

    for run in runs.all_runs(experiment):
        assert (results / run.id / "metrics.json").exists()
        # one job for each run: it is attached to, or its result is taken over
        history = (folder / f"work/tiny/{run.id}/launch.log").read_text()
        assert history.count("submitted as job") == 1
    for table in runs.table_names(experiment):
        assert (folder / f"results/tiny/tables/{table}.csv").exists()
    # rules without a GPU: the choice on the grid, and the tables
    assert len(re.findall(r"job \d+: submitted (choose/[^/ ]+|tables)\n", said)) == 2
    script = next((folder / "work/tiny/rules/tables/submitit").glob("*/submission.sh"))
    assert "export D2V_GREETING=hello" in script.read_text()
    until(lambda: not cluster.queue(), 20, "jobs are left")

    again, _ = start(folder, cluster, "-n").communicate(timeout=60)
    assert "Nothing to be done" in again
