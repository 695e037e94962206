"""Checks that end a failing run, each with its own error."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from d2v import params
from d2v.training.task import Task
from d2v.util.errors import NotFinite, Rebound

MOST_SKIPPED = 5  # consecutive skipped optimiser steps that end the run
SHOWN = 5  # example ids shown in a message; the log lists all


class Health:
    """Checks the lines of the log, step by step, with the same outcome in every process."""

    def __init__(
        self,
        task: Task,
        checkpoints: Path,
        rebound: params.Rebound | None,
        ids: Callable[[int], list[str]],
        say: Callable[[str], None],
    ) -> None:
        """`ids(step)` names the examples of the `step`-th optimiser step, over all processes."""
        self.task, self.checkpoints, self.ids, self.say = task, checkpoints, ids, say
        self.trend = None if rebound is None else Trend(rebound)
        self.skipped = 0  # consecutive skipped steps

    def remember(self, losses: Iterable[float | None]) -> None:
        """Take in the losses of the steps before a resume."""
        if self.trend is not None:
            for loss in losses:
                self.trend.risen(loss)

    def judge(self, line: dict[str, Any]) -> None:
        """Raise an error if the run has to end at this step; mark a skipped step in the line.

        Raises NotFinite, Rebound, and whatever task.check raises.
        """
        step = line["step"]
        broken = [name for name in ("loss", "grad_norm") if not math.isfinite(line[name])]
        if broken:
            self._skip(line, broken[0])
            return
        self.skipped = 0
        self.task.check(step, line)
        if self.trend is not None and self.trend.risen(line["loss"]):
            raise Rebound(
                f"step {step}: the loss, {self.trend.mean:.4g} on average over {self.trend.p.steps}"
                f" steps, is more than train.rebound.factor {self.trend.p.factor:g} times its"
                f" minimum, {self.trend.least:.4g}: training has diverged; try a lower"
                f" optimiser.lr, or set train.rebound: null to resume from the newest checkpoint in"
                f" {self.checkpoints}"
            )

    def _skip(self, line: dict[str, Any], name: str) -> None:
        self.skipped += 1
        line["skipped"] = ids = self.ids(line["step"])
        more = f" and {len(ids) - SHOWN} more (see `skipped` in log.jsonl)"
        examples = ", ".join(ids[:SHOWN]) + (more if len(ids) > SHOWN else "")
        failure = f"step {line['step']}: {name} is {line[name]}, examples {examples}"
        if self.skipped < MOST_SKIPPED:
            self.say(f"{failure}; the step is skipped, and the weights are left unchanged")
            return
        raise NotFinite(
            f"{failure}; {MOST_SKIPPED} steps in a row were skipped; the checkpoints in"
            f" {self.checkpoints} are good; check these examples, or try a lower optimiser.lr, a"
            " longer warm-up or optimiser.clip"
        )


class Trend:
    """The running mean of the loss, and its minimum so far."""

    def __init__(self, p: params.Rebound) -> None:
        self.p = p
        self.recent: deque[float] = deque(maxlen=p.steps)
        self.total = 0.0
        self.least = math.inf

    @property
    def mean(self) -> float:
        """Mean of the newest `steps` losses."""
        return self.total / len(self.recent)

    def risen(self, loss: float | None) -> bool:
        """Add the next loss (None: a skipped step); return whether the mean has risen too far.

        It has if it exceeds `factor` times its minimum.
        """
        if loss is None:
            return False
        if len(self.recent) == self.p.steps:
            self.total -= self.recent[0]
        self.recent.append(loss)
        self.total += loss
        if len(self.recent) < self.p.steps:
            return False
        self.least = min(self.least, self.mean)
        return self.mean > self.p.factor * self.least
