"""Real training on a real Slurm: several nodes compute what one process does, through any fault."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import NODES, Cluster, until
from conftest import lengthen, write_resources

from d2v.training import log
from d2v.util.files import read_json

pytestmark = pytest.mark.slow
TWO_BY_TWO = {"nodes": "2", "tasks": "2", "memory_gb": "3"}
FAULTS = int(os.environ.get("D2V_FAULTS", "3"))  # 20 take a quarter of an hour
# makes every step of a training last a while, so that faults hit it, at no cost of computation
SLOW = """
import importlib.abc, importlib.util, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "d2v.training.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            whole = module._Loop._backward

            def backward(self, batches, step):
                time.sleep(0.7)
                return whole(self, batches, step)

            module._Loop._backward = backward

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Slow())
"""


def start(
    folder: Path, cluster: Cluster, run: str, place: str, **environment: str
) -> subprocess.Popen[str]:
    """`d2v run`."""
    words = ["d2v.cli", "run", run, "--params", "params/tiny.yaml", "--launch", place]
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | cluster.environment | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def curve(folder: Path, run: str) -> list[dict[str, Any]]:
    """Lines of a run's log but for the speed; every step is there once."""
    lines = log.read(folder / f"work/tiny/{run}/log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [{k: v for k, v in line.items() if not k.endswith("_per_s")} for line in lines]


def ended(process: subprocess.Popen[str], seconds: float) -> str:
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_two_nodes_equal_one_process(folder: Path, cluster: Cluster, modality: str) -> None:
    """The processes of the nodes read shards that one of them has staged."""
    lengthen(folder, 30, shard=str(modality == "text").lower())
    staged = folder / "fast"
    write_resources(folder, **TWO_BY_TWO, stage=str(staged))
    run = f"pretrain/{modality}/seed0"
    said = ended(start(folder, cluster, run, "slurm"), 300)
    assert "batch 8 = 2 (micro) x 1 (accumulation) x 4 (processes), cpu" in said
    assert list(staged.rglob("00000.bin")), said
    assert "not staged" not in said
    spread = curve(folder, run)
    (folder / "work").rename(folder / "work-spread")
    said = ended(start(folder, cluster, run, "debug"), 120)
    assert "batch 8 = 2 (micro) x 4 (accumulation) x 1 (processes), cpu" in said
    alone = curve(folder, run)
    assert len(alone) == 30
    for name in ("loss", "target_std", "prediction_std", "encoder_std"):
        assert [line[name] for line in spread] == pytest.approx(
            [line[name] for line in alone], rel=1e-6
        )


class Faults:
    """What can happen to a running job."""

    def __init__(self, cluster: Cluster, work: Path) -> None:
        self.cluster, self.work = cluster, work

    def job(self) -> str:
        return str((read_json(self.work / "job.json") or {})["id"])

    def running(self) -> bool:
        """Whether the job runs; nodes that Slurm drained after a fault are given back to it."""
        self.cluster.repair()
        return self.cluster.queue().get(self.job()) == "RUNNING"

    def hits(self, step: int, process: subprocess.Popen[str]) -> bool:
        """Whether the job is at work beyond a step (or has ended)."""
        return process.poll() is not None or (newest_step(self.work) >= step and self.running())

    def ended(self, process: subprocess.Popen[str]) -> bool:
        self.cluster.repair()
        return process.poll() is not None

    def some(self, count: int) -> list[Callable[[], None]]:
        """So many of them: each once, and then in rounds of random order."""
        kinds = [self.kill_rank, self.node_down, self.requeue, self.preempt]
        kinds += [self.restart_controller, self.kill_slurmd, self.time_out, self.pause_rank]
        more = [
            kind for _ in range(count // len(kinds)) for kind in random.sample(kinds, len(kinds))
        ]
        return [*kinds, *more][:count]

    def requeue(self) -> None:
        self.cluster.ask("scontrol", "requeue", self.job())

    def kill_rank(self) -> None:
        until(lambda: bool(self.cluster.tasks(self.job())), 60, "no process of the job")
        os.kill(random.choice(self.cluster.tasks(self.job())), signal.SIGKILL)

    def pause_rank(self) -> None:
        until(lambda: bool(self.cluster.tasks(self.job())), 60, "no process of the job")
        rank = random.choice(self.cluster.tasks(self.job()))
        os.kill(rank, signal.SIGSTOP)
        time.sleep(5)
        os.kill(rank, signal.SIGCONT)

    def node_down(self) -> None:
        node = random.choice(NODES)
        self.cluster.node(node, "down")
        time.sleep(3)
        self.cluster.node(node, "resume")

    def restart_controller(self) -> None:
        self.cluster.stop_slurmctld(random.choice([signal.SIGTERM, signal.SIGKILL]))
        time.sleep(3)
        self.cluster.start_slurmctld()

    def kill_slurmd(self) -> None:
        node = random.choice(NODES)
        self.cluster.stop_slurmd(node)
        time.sleep(1)
        self.cluster.start_slurmd(node)

    def preempt(self) -> None:
        words = ("-p", "debug", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
        self.cluster.ask("sbatch", *words)

    def time_out(self) -> None:
        # submitit's signal, as it comes before a time limit or a pre-emption
        self.cluster.ask("scancel", "--signal=USR2", self.job())


def test_a_run_survives_faults_with_the_same_curve(folder: Path, cluster: Cluster) -> None:
    run = "pretrain/text/seed0"
    random.seed(os.environ.get("D2V_SEED", "0"))
    count = 15 * max(FAULTS, 4)  # 300 steps for 20 faults
    lengthen(folder, count, checkpoint_every=20)
    resources = {**TWO_BY_TWO, "tasks": "1", "partition": "low", "retries": "3"}
    write_resources(folder, **resources)
    ended(start(folder, cluster, run, "slurm"), 600)
    quiet = curve(folder, run)
    (folder / "work").rename(folder / "work-quiet")

    work = folder / "work/tiny" / run
    faults = Faults(cluster, work)
    (folder / "slow").mkdir()
    (folder / "slow/sitecustomize.py").write_text(SLOW)
    path = f"{folder / 'slow'}:{os.environ.get('PYTHONPATH', '')}"
    process = start(folder, cluster, run, "slurm", PYTHONPATH=path)
    done = []
    try:
        for fault in faults.some(FAULTS):
            step = newest_step(work) + 3
            until(lambda: faults.hits(step, process), 600, "no progress")  # noqa: B023
            assert process.poll() is None, f"ended before the faults did: {done}"
            done.append((fault.__name__, newest_step(work)))
            fault()
        until(lambda: faults.ended(process), 900, "no end")
        said = ended(process, 10)
    finally:
        process.kill()
        print(
            len(done),
            "faults:",
            done,
            (work / "launch.log").read_text(),
            cluster.report(),
            sep="\n",
        )
    assert len(quiet) == count
    assert curve(folder, run) == quiet, said


def newest_step(work: Path) -> int:
    """Last step of a run's log."""
    try:
        lines = (work / "log.jsonl").read_text().splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (FileNotFoundError, ValueError):
        return 0
