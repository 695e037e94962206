"""What a run reports while it trains: progress, log.jsonl, trackers, and checks of its health."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v import params
from d2v.training import distributed, log, tracking
from d2v.training.distributed import World
from d2v.training.health import Health
from d2v.training.task import Task
from d2v.util.progress import Progress


class Reports:
    """Steps since the last report stay on the device; a report reads, checks and writes them."""

    def __init__(self, train: params.Train, work: Path, step: int, world: World) -> None:
        self.train, self.work, self.start, self.main = train, work, step, world.main
        self.meter = log.Meter()
        self.progress = Progress(train.steps, step, quiet=not world.main)
        self.say: Callable[[str], None] = self.progress.say

    def open(
        self, task: Task, checkpoints: Path, examples: Callable[[int], list[str]], params: Any
    ) -> None:
        """Open the files of the run, whose lines after the first step are removed."""
        before: list[float | None] = []
        if self.main:
            self.lines = log.JsonLines(self.work / "log.jsonl", self.start, self.train.log_every)
            before = self.lines.losses
            self.trackers = tracking.open_all(self.work, params, self.start)
        self.health = Health(task, checkpoints, self.train.rebound, examples, self.say)
        self.health.remember(distributed.from_main(before))

    @property
    def pending(self) -> bool:
        """Whether there are steps that have not been reported."""
        return bool(self.meter.rows)

    def add(
        self, step: int, measured: Mapping[str, Tensor], more: dict[str, float], examples: int
    ) -> None:
        """Keep the measurements of a step for the next report."""
        self.meter.add(step, dict(measured), more, examples)

    def read(self) -> list[dict[str, Any]]:
        """Return the log lines of the steps since the last report, once Health has checked them."""
        lines = self.meter.read()
        for count, line in enumerate(lines, start=1):
            try:
                self.health.judge(line)
            except BaseException:
                self.write(lines[:count])
                raise
        return lines

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Write the lines to the log and to the trackers, and show the last one."""
        if self.main:
            self.lines.write(lines)
            tracking.tell(self.trackers, lines)
            last = lines[-1]
            self.progress.update(last["step"], log.summary(last), last["steps_per_s"])

    def restart(self) -> None:
        """Start the clock of the next report: examples per second count training time only."""
        self.meter.restart()

    def outcome(self) -> tuple[dict[str, Any], dict[str, float]]:
        """Means over the last lines with the number of skipped steps, and the last validation."""
        recent = self.lines.recent
        logs = {**log.means(recent), "skipped_steps": self.lines.skipped}
        return logs, recent[-1].get("validation", {})

    def sync(self) -> None:
        """Make sure that all lines are on the disk."""
        self.lines.sync()

    def close(self) -> None:
        """Close progress, log and trackers."""
        self.progress.close()
        if self.main:
            self.lines.close()
            tracking.close(self.trackers)
