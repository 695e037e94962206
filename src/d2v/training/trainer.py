"""The training loop: pre-training and fine-tuning, in one process or several."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from d2v import params
from d2v.data import sampler
from d2v.training import (
    checkpoint,
    compiling,
    devices,
    distributed,
    graphs,
    loader,
    memory,
    optim,
)
from d2v.training.identity import identity
from d2v.training.loader import Examples
from d2v.training.precision import Working
from d2v.training.reports import Reports
from d2v.training.saving import Saver
from d2v.training.signals import Signals
from d2v.training.step import Step
from d2v.training.task import Task
from d2v.util.errors import OutOfMemory

Metrics = dict[str, float]
Validate = Callable[[Task, int], Metrics]
Better = Callable[[Metrics, Metrics | None], bool]

KEEP = 2  # checkpoints kept on disk, besides the best one


@dataclass(frozen=True)
class Summary:
    """The outcome of a finished run."""

    steps: int
    kept: int  # step of the kept weights: the last, or the best on the dev split
    checkpoint: Path  # folder of the kept weights
    logs: Metrics  # means over the last log_every steps (loss, target_std, ...), and skipped_steps
    validation: Metrics  # metrics of the kept weights; empty without validation
    seconds: float  # wall time over all attempts, without work lost to kills

    def described(self) -> dict[str, Any]:
        """The outcome as metrics.json stores it."""
        return {
            "steps": self.steps,
            "kept_step": self.kept,
            "checkpoint": str(self.checkpoint),
            "train_s": round(self.seconds, 2),
            **self.logs,
        }


def fit(
    task: Task,
    dataset: Examples,
    *,
    optimiser: params.Optimiser,
    schedule: params.Schedule,
    train: params.Train,
    work: Path,
    seed: int,
    validate: Validate | None = None,
    validate_every: int | None = None,
    keep: Literal["last", "best"] = "last",
    better: Better | None = None,
    params: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Summary:
    """Train `task` for train.steps optimiser steps, resuming from the newest checkpoint in `work`.

    The gradient is that of summed losses / summed counts over all micro-batches and processes.
    `validate(task, step)` is called in the main process, in evaluation mode without gradients,
    every `validate_every` steps and at the end; `better(new, best)` compares its results. For the
    first ones, `best` is None, and the answer is whether `new` is defined. If no result is, the
    last weights are kept.
    `params` holds everything that defines the result (JSON-able). Every checkpoint stores it, with
    `provenance` and `inputs`; checkpoints made with other values are moved aside, not resumed.
    A finished run returns its Summary at once. On return the task holds the kept weights.
    A signal that announces the end of the process (d2v.training.signals) is handled after the
    current step, once the state is saved.

    Raises UserError (the batch does not divide or fit; the last or best checkpoint cannot be
    written), NotFinite, Rebound, OutOfMemory, and whatever task.check raises.
    """
    if keep == "best" and (validate is None or better is None):
        raise ValueError("keep='best' needs validate and better")
    # validation affects the result only where it chooses the weights to keep
    every = validate_every if keep == "best" else None
    defining = {"params": params, "seed": seed, "keep": keep, "validate_every": every}
    for group in (optimiser, schedule, train):
        defining[type(group).__name__] = group.model_dump(mode="json")
    meta = {"identity": identity(defining), "params": params, "provenance": provenance}
    if inputs is not None:
        meta["inputs"] = inputs

    loop = _Loop(task, dataset, optimiser, schedule, train, work, seed, meta)
    loop.validate, loop.validate_every = validate, validate_every
    loop.better = better if keep == "best" else None
    loop.resume()
    if loop.outcome is None:
        try:
            loop.run()
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"step {loop.step + 1}: out of GPU memory ({str(error).splitlines()[0]});"
                f" {memory.advice(train, loop.train)}"
            ) from None
    return loop.summary()


class _Loop:
    """State of one run. Call `resume`, then `run` unless the run is finished, then `summary`."""

    validate: Validate | None = None
    validate_every: int | None = None
    better: Better | None = None  # set if the best weights are kept
    capture: graphs.Capture | None = None  # replaces CUDA graphs in tests

    def __init__(
        self,
        task: Task,
        dataset: Examples,
        optimiser: params.Optimiser,
        schedule: params.Schedule,
        train: params.Train,
        work: Path,
        seed: int,
        meta: dict[str, Any],
    ) -> None:
        self.started = time.perf_counter()
        self.world = distributed.join()
        devices.keep_memory(self.world.device)
        self.task, self.dataset = task.to(self.world.device).train(), dataset
        if train.recompute:
            task.recompute()
        self.optimiser = optim.build(task, optimiser, train.shard)
        fits = memory.Trial(task, dataset, self.optimiser, train, self.world)
        train, found = memory.settled(train, work, self.world, meta, fits)
        self.notes = [found] if found else []  # lines for the log
        self.accumulation = sampler.portions(train, self.world.size)
        self.train, self.work, self.seed, self.meta = train, work, seed, meta
        self.checkpoints = work / "checkpoints"
        self.clip = optimiser.clip
        self.rate = optim.schedule(schedule, optimiser.lr, train.steps)
        self.mixed = train.precision == "mixed" and devices.has_bfloat16(self.world.device)
        self.step = 0  # completed optimiser steps
        self.saved = 0  # step of the last save
        self.seconds = 0.0  # wall time of earlier attempts
        self.best: dict[str, Any] | None = None  # {"step", "validation"}
        self.outcome: dict[str, Any] | None = None  # of a finished run: logs, validation, seconds

    def run(self) -> None:
        """Run all remaining steps."""
        self._prepare()
        self.model = distributed.wrap(self.task, self.world)
        self.order = sampler.build(
            self.dataset,
            self.train,
            rank=self.world.rank,
            world=self.world.size,
            seed=self.seed,
            start_step=self.step,
        )
        self.reports = Reports(self.train, self.work, self.step, self.world)
        self.say = self.reports.say
        self._introduce()
        self.reports.open(self.task, self.checkpoints, self._examples, self.meta["params"])
        self.halves = self._halves()
        self.saver = Saver(self.checkpoints, KEEP, self.say)
        try:
            with Signals() as self.signals:
                self._steps()
        finally:
            if self.working is not None:
                self.working.restore()
            self.saver.close()
            self.reports.close()

    def _steps(self) -> None:
        train, task = self.train, self.task
        batches = loader.batches(self.dataset, self.order, train.workers, self.world.device)
        freeze = getattr(task, "freeze", None)
        for step in range(self.step, train.steps):
            if freeze is not None:
                freeze(step)
            lr = self.rate(step)

            # --- gradient of the global batch, and update
            sums = self._backward(batches, step)
            norm, logs = self.halves.update(sums, lr, step + 1)

            if self.compiled is not None and (news := self.compiled.news()):
                self.say(news)

            # --- report; the host waits for the device only here, and only every few steps
            self.step = step + 1
            measured = {**task.summary(sums), "grad_norm": norm}
            self.reports.add(self.step, measured, {**logs, "lr": lr}, self.order.examples(step))
            if any(map(self._due, (train.log_every, train.checkpoint_every, self.validate_every))):
                self._report()
            if self._told_to_end():
                self._obey()

    def resume(self) -> None:
        """Restore the state of this run's newest checkpoint, if there is one."""
        folder = distributed.from_main(self._newest() if self.world.main else None)
        if folder is None:
            return
        meta = checkpoint.read_meta(folder)
        self.step = self.saved = meta["step"]
        self.best, self.seconds, self.outcome = meta["best"], meta["seconds"], meta["outcome"]
        if self.outcome is not None:  # finished: its training state may have been removed
            if checkpoint.kept(folder, meta) == folder:  # `summary` loads others
                self.task.load_state_dict(checkpoint.load_weights(folder))
            return
        found = checkpoint.load(folder)
        self.task.load_state_dict(found.model)
        checkpoint.restore_optimiser(self.optimiser, found.training)
        checkpoint.restore_random(found.training)

    def summary(self) -> Summary:
        """Return the outcome, after loading the kept weights if they are not the last."""
        outcome = distributed.from_main(self.outcome)
        kept = self.best["step"] if self.better and self.best else self.step
        folder = self.checkpoints / f"step-{kept}"
        if kept != self.step:
            self.task.load_state_dict(checkpoint.load_weights(folder))
        return Summary(steps=self.step, kept=kept, checkpoint=folder, **outcome)

    # --- in the order they are called ---------------------------------------------------------

    def _prepare(self) -> None:
        """Set up bfloat16 weights and compilation, with which the task computes."""
        half = self.train.precision == "bfloat16"
        self.working = Working(self.task) if half else None
        reduced = self.mixed or self.working is not None
        self.notes += compiling.slow_attention(self.task, self.world.device, reduced)
        self.compiled: compiling.Watch | None = None
        if backend := compiling.backend_of(self.train.compile, self.world.device):
            lengths_vary = self.train.sized is not None
            # in the run's folder, so that a resumed run finds it on any node
            compiling.compile_parts(self.task, backend, lengths_vary, self.work / "compiled")
            self.compiled = compiling.Watch()
            self.notes.append(f"compiling with {backend}: the first steps take longer")

    def _halves(self) -> Step:
        step = Step(
            self.task, self.model, self.optimiser, clip=self.clip, mixed=self.mixed,
            working=self.working, world=self.world.size,
        )  # fmt: skip
        return graphs.build(
            self.train.cuda_graph, step, self.train.recompute, self.say, self.capture
        )

    def _newest(self) -> Path | None:
        folder = checkpoint.latest(self.checkpoints)
        if folder is None or checkpoint.read_meta(folder)["identity"] == self.meta["identity"]:
            return folder
        aside = checkpoint.set_aside(self.checkpoints)
        print(f"the parameters have changed: checkpoints moved to {aside}, starting afresh")
        return None

    def _introduce(self) -> None:
        train, world = self.train, self.world
        self.say(
            f"{sampler.describe(train, self.order.mean)} x {self.accumulation} (accumulation)"
            f" x {world.size} (processes), {world.device.type},"
            f" {self.numbers()}"
        )
        for note in self.notes:
            self.say(note)
        if self.step:
            self.say(f"resuming after step {self.step} of {train.steps}")

    def numbers(self) -> str:
        """The kind of numbers that a step computes with, for the log."""
        if self.working is not None:
            return "bfloat16 with float32 weights in the optimiser"
        return "bfloat16 where safe" if self.mixed else "float32"

    def _examples(self, step: int) -> list[str]:
        return [self.dataset.ids[index] for _, index in self.order.keys(step - 1)]

    def _backward(self, batches: Iterator[dict[str, Any]], step: int) -> dict[str, Tensor]:
        """Backpropagate the summed loss; return the task's outputs summed over the global batch."""
        world, device, sums = self.world, self.world.device, None
        for a in range(self.accumulation):
            batch = next(batches)
            # dropout depends on the micro-batch's place in the run, not on the process computing it
            place = a * world.size + world.rank
            devices.seed(device, self.seed, step, place)
            last = a == self.accumulation - 1
            with distributed.exchange(self.model, now=last):
                values = self.halves.gradients(batch, last)
            sums = values if sums is None else sums + values
        assert sums is not None
        return self.halves.named(distributed.add_up(sums))

    def _due(self, every: int | None) -> bool:
        return self.step == self.train.steps or (every is not None and self.step % every == 0)

    def _report(self) -> None:
        """Check and log the steps since the last report; validate and save where due."""
        lines = self.reports.read()
        validate = self.validate is not None and self._due(self.validate_every)
        improved = validate and self._validated(lines[-1])
        self.reports.write(lines)
        if improved or self._due(self.train.checkpoint_every) or self._late():
            self._save()
        self.saver.poll()
        self.reports.restart()

    def _validated(self, line: dict[str, Any]) -> bool:
        """Validate and add the metrics to `line`; return whether to keep these weights as best."""
        metrics: Metrics = {}
        if self.validate is not None and self.world.main:
            self.task.eval()
            with torch.no_grad():
                metrics = self.validate(self.task, self.step)
            self.task.train()
            self.say(f"step {self.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()))
        line["validation"] = metrics = distributed.from_main(metrics)
        if self.better is None:
            return False
        if self.better(metrics, self.best and self.best["validation"]):
            self.best = {"step": self.step, "validation": metrics}
            return True
        if self.best is None and self.step == self.train.steps:
            self.say("no validation was defined, so the last weights are kept")
        return False

    def _late(self) -> bool:
        """Whether the newest checkpoint is older than checkpoint_minutes.

        The clock of the main process decides for all.
        """
        minutes = self.train.checkpoint_minutes
        if minutes is None:
            return False
        return bool(distributed.from_main(time.monotonic() - self.saver.last >= 60 * minutes))

    def _told_to_end(self) -> bool:
        """Whether any process has received a signal; all processes get the same answer."""
        here = self.signals.asked is not None
        if self.world.device.type == "cuda" and self.world.size > 1 and self.reports.pending:
            return False  # ask only after reports: processes should not wait at every step
        return distributed.any_of(here)

    def _obey(self) -> None:
        """Save the state, then pass the signal on to its original handler."""
        if self.reports.pending:
            self.reports.write(self.reports.read())
            self.reports.restart()
        if self.saved != self.step:
            self._save()
        self.saver.wait()
        self.say(f"stopping: checkpoint saved after step {self.step}")
        self.signals.deliver()

    def _save(self) -> None:
        self.saved = self.step
        distributed.gather_moments(self.optimiser)
        if not self.world.main:
            return
        seconds = self.seconds + time.perf_counter() - self.started
        end = self.step == self.train.steps
        if end:
            logs, last = self.reports.outcome()
            self.outcome = {
                "logs": logs,
                "validation": self.best["validation"] if self.best else last,
                "seconds": seconds,
            }
        state = {"best": self.best, "seconds": seconds, "outcome": self.outcome}
        training = {**checkpoint.optimiser_state(self.optimiser), **checkpoint.random_state()}
        best = self.best is not None and self.best["step"] == self.step
        with self.working.masters() if self.working is not None else nullcontext():
            weights = self.task.state_dict()
        self.reports.sync()
        self.saver.save(self.step, weights, training, {**self.meta, **state}, needed=best or end)
        if end:
            self.saver.wait()
