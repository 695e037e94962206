"""A warning when prepared data is out of date; DVC is queried in the background."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from d2v.data.dvc import STAGES, named
from d2v.util.locks import held, is_held

LOCK = Path(".dvc/tmp/d2v.lock")  # held by `d2v data`: only one DVC process at a time


class Watch:
    """Runs `dvc status` for the stages of some data sets while the workflow is being planned."""

    def __init__(self, datasets: Sequence[str], stages: Path) -> None:
        """Start `dvc status`, unless no data set is named, the file is missing, or DVC is busy."""
        self.stages = stages
        self.process: subprocess.Popen[str] | None = None
        if datasets and stages.exists() and not is_held(LOCK):
            targets = named(datasets, stages)
            with held(LOCK) as lock:  # inherited by DVC, so that a later `d2v data` waits
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "dvc", "status", "--json", "--with-deps", *targets],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | {"DVC_NO_ANALYTICS": "1"},
                    text=True,
                    pass_fds=[lock.fileno()],
                )

    def report(self) -> None:
        """Wait for DVC's answer and print the warning; further calls do nothing."""
        process, self.process = self.process, None
        if process is None:
            return
        answer, _ = process.communicate()
        stale = parse(answer)
        if stale:
            print(
                f"warning: prepared data is out of date (stages {', '.join(stale)}):"
                f" {remedy(stale, self.stages)}; runs whose data changed are then repeated",
                file=sys.stderr,
            )


def remedy(stale: Sequence[str], stages: Path) -> str:
    """Advice for the warning: the command that brings the stale stages of a file up to date."""
    if stages == STAGES:
        return "run `d2v data` to prepare it again"
    names = " ".join(stage.rpartition(":")[2] for stage in stale)
    return (
        f"run `d2v data {names} --stages {stages}` to prepare it again (to keep what you prepared"
        f" by hand: `dvc commit --force {' '.join(stale)}`)"
    )


def parse(answer: str) -> list[str]:
    """Stages out of date according to `dvc status --json`; empty if the output is not JSON."""
    try:
        return sorted(json.loads(answer))
    except json.JSONDecodeError:
        return []
