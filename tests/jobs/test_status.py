"""`d2v status` of a crowd of runs on a cluster: fast, with one question, and with every reason."""

import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from workspace import ROOT

from d2v.jobs import squeue

COUNT = 500


class Crowd:
    """Runs of one pre-training, each with a job of one array."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = (ROOT / "tests/params/tiny.yaml").read_text()
        seeds = ", ".join(map(str, range(COUNT)))
        (folder / "params").mkdir()
        path = folder / "params/tiny.yaml"
        path.write_text(text.replace("seeds: [0, 1]", f"seeds: [{seeds}]", 1))
        (folder / "results/tiny").mkdir(parents=True)
        (folder / "params/cluster.yaml").write_text("slurm: {hours: 1}\n")
        self.rows: list[str] = []

    def run(self, seed: int, word: str, step: int = 0, age: float = 0.0, state: str = "") -> None:
        work = self.folder / f"work/tiny/pretrain/vision/seed{seed}"
        work.mkdir(parents=True)
        job = {"id": f"7_{seed}", "place": "slurm", "attempt": "a", "spec": "s", "state": state}
        (work / "job.json").write_text(json.dumps(job))
        if word:
            cells = (job["id"], word, "1", "n1", "None", "d2v b")
            widths = squeue.FIELDS.values()
            self.rows.append("".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)))
        if step:
            started = datetime.now(UTC).isoformat(timespec="seconds")
            pulse = {"attempt": "a", "restarts": 1, "node": "n1", "gpu_mib": 5, "started": started}
            (work / "pulse.json").write_text(json.dumps({**pulse, "time": time.time()}))
            line = {"step": step, "steps_per_s": 0.0005, "examples_per_s": 1.0, "loss": 0.5}
            (work / "log.jsonl").write_text(json.dumps(line) + "\n")
            then = time.time() - age
            os.utime(work / "log.jsonl", (then, then))

    def status(self) -> dict[str, list[str]]:
        """Cells of each run, by its id."""
        (self.folder / "rows").write_text("\n".join(self.rows) + "\n")
        (self.folder / "squeue").write_text("#!/bin/sh\necho >> calls; cat rows\n")
        (self.folder / "squeue").chmod(0o755)
        environment = {"PATH": f"{self.folder}:/usr/bin:/bin", "TMPDIR": str(self.folder)}
        words = [sys.executable, "-m", "d2v.cli", "status", "--params", "params/tiny.yaml"]
        done = subprocess.run(
            words, cwd=self.folder, env=os.environ | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        self.said = done.stdout
        return {line.split()[0]: line.split() for line in done.stdout.splitlines() if "/" in line}


@pytest.fixture
def crowd(tmp_path: Path) -> Crowd:
    return Crowd(tmp_path)


@pytest.mark.slow
def test_five_hundred_runs_take_two_seconds_and_one_question(crowd: Crowd) -> None:
    for seed in range(COUNT):
        crowd.run(seed, "RUNNING", step=3)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = crowd.status()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert rows[f"pretrain/vision/seed{COUNT - 1}"][1] == "running"
    assert f"{COUNT} running" in crowd.said
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(f"{COUNT} runs: {seconds:.2f} s")
    assert seconds < 2
    assert (crowd.folder / "calls").read_text().count("\n") == 1
    crowd.status()
    assert (crowd.folder / "calls").read_text().count("\n") == 1  # the answer is shared


def test_stalls_links_and_reasons_are_shown(crowd: Crowd) -> None:
    crowd.run(0, "RUNNING", step=3, age=3 * 3600)
    crowd.run(1, "RUNNING", step=3, age=40 * 3600)
    crowd.run(2, "PENDING")
    crowd.run(3, "", state="out of time")
    crowd.run(4, "", state="refused")
    rows = crowd.status()
    first = rows["pretrain/vision/seed0"]
    assert first[1:4] == ["running", "3/6", "3h"]
    # 3 steps at 0.0005 a second are 100 minutes: this job, the chain's second, and another one
    assert first[-4:] == ["7_0", "2/3", "n1", "5"]
    assert rows["pretrain/vision/seed1"][1] == "stalled"
    assert rows["pretrain/vision/seed2"][1] == "requeued"
    assert rows["pretrain/vision/seed3"][1:4] == ["out", "of", "time"]
    assert rows["pretrain/vision/seed4"][1] == "refused"
