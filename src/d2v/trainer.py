"""The one loop: pre-training and fine-tuning, one process or several."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2v import checkpoint, distributed, log, optim, params
from d2v.data import sampler
from d2v.errors import NotFinite, OutOfMemory, UserError
from d2v.task import Task

Metrics = dict[str, float]
Validate = Callable[[Task, int], Metrics]
Better = Callable[[Metrics, Metrics], bool]

SMALLER = (
    "give a smaller train.micro_batch, or train.sized with a smaller size and more micro_batches,"
    " or more GPUs: the batch of a step stays the same, and the run goes on from its checkpoint"
)
KEEP = 2  # checkpoints on disk, besides the best one
# where and in which portions a run is computed: it may be continued with other values of these
PORTIONS = {"micro_batch", "log_every", "checkpoint_every", "workers", "cpus"}


class Examples(Protocol):
    """What the loop needs of a data set: examples by (epoch, index), collated to a batch."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def sizes(self) -> Any: ...  # (N,) integers; asked for where train.sized is given
    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int], /) -> Any: ...
    def collate(self, examples: list[Any], /) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Summary:
    """What a finished run was."""

    steps: int
    kept: int  # step of the weights that are kept: the last, or the best on the dev split
    checkpoint: Path  # folder of these weights
    logs: Metrics  # means over the last log_every steps: loss, target_std, ...
    validation: Metrics  # metrics of the kept weights; empty without validation
    seconds: float  # wall time over all starts, without what was lost in kills


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
) -> Summary:
    """Train `task` for train.steps optimiser steps, going on from the newest checkpoint in `work`.

    The gradient is that of summed losses / summed counts over all micro-batches and processes.
    `validate(task, step)` is called in the main process, in evaluation mode without gradients,
    every `validate_every` steps and at the end; `better(new, best)` compares its results.
    `params` is all that defines the result (JSON-able; kept in every checkpoint, as `provenance`
    is): checkpoints made with other values are moved aside, not continued. A finished run returns
    its Summary at once. In the end the task holds the kept weights.

    Raises UserError (the batch does not divide or fit; the last or best checkpoint cannot be
    written), NotFinite, OutOfMemory, and what task.check raises.
    """
    if keep == "best" and (validate is None or better is None):
        raise ValueError("keep='best' needs validate and better")
    defining = {"params": params, "seed": seed, "keep": keep, "validate_every": validate_every}
    for group in (optimiser, schedule, train):
        defining[type(group).__name__] = group.model_dump(mode="json")
    meta = {"identity": identity(defining), "params": params, "provenance": provenance}

    loop = _Loop(task, dataset, optimiser, schedule, train, work, seed, meta)
    loop.validate, loop.validate_every = validate, validate_every
    loop.better = better if keep == "best" else None
    loop.resume()
    if loop.outcome is None:
        try:
            loop.run()
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"step {loop.step + 1}: out of GPU memory ({str(error).splitlines()[0]}); {SMALLER}"
            ) from None
    return loop.summary()


def identity(defining: Mapping[str, Any]) -> str:
    """SHA-256 of what defines a result, without what only says in which portions it is computed."""

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: strip(v) for k, v in value.items() if k not in PORTIONS}
        return value

    return hashlib.sha256(json.dumps(strip(defining), sort_keys=True).encode()).hexdigest()


class _Loop:
    """One run: `resume`, `run`, `summary`."""

    validate: Validate | None = None
    validate_every: int | None = None
    better: Better | None = None  # given if the best weights are kept

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
        self.accumulation = sampler.portions(train, self.world.size)
        self.task, self.dataset = task.to(self.world.device).train(), dataset
        self.train, self.work, self.seed, self.meta = train, work, seed, meta
        self.checkpoints = work / "checkpoints"
        self.clip = optimiser.clip
        self.optimiser = optim.build(task, optimiser)
        self.parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.rate = optim.schedule(schedule, optimiser.lr, train.steps)
        self.mixed = (
            train.precision == "mixed"
            and self.world.device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )
        self.step = 0  # finished optimiser steps
        self.seconds = 0.0  # of earlier starts
        self.best: dict[str, Any] | None = None  # {"step", "validation"}
        self.outcome: dict[str, Any] | None = None  # of a finished run: logs, validation, seconds

    def run(self) -> None:
        """All remaining steps."""
        train, task = self.train, self.task
        self.model = distributed.wrap(task, self.world)
        self.meter = log.Meter(self.accumulation * self.world.size)
        self.order = sampler.build(
            self.dataset,
            train,
            rank=self.world.rank,
            world=self.world.size,
            seed=self.seed,
            start_step=self.step,
        )
        self._open_logs()
        batches = self._batches()
        freeze = getattr(task, "freeze", None)

        for step in range(self.step, train.steps):
            if freeze is not None:
                freeze(step)
            lr = self.rate(step)
            optim.set_rate(self.optimiser, lr)

            # --- gradient of the global batch
            names, totals = self._backward(batches, step)
            scale = self.world.size / totals[1].clamp(min=1)  # processes were averaged, not summed
            norm = optim.scale_and_clip(self.parameters, scale.float(), self.clip)

            # --- update
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            logs = task.after_step(step + 1)

            # --- report; only here, and only now and then, the device is waited for
            self.step = step + 1
            known = {**logs, "lr": lr}
            self.meter.add(self.step, names, totals, norm, known, self.order.examples(step))
            if any(map(self._due, (train.log_every, train.checkpoint_every, self.validate_every))):
                self._report()
        self._close_logs()

    def resume(self) -> None:
        """Go back to the state of the newest checkpoint of this run, if there is one."""
        folder = distributed.from_main(self._newest() if self.world.main else None)
        if folder is None:
            return
        found = checkpoint.load(folder)
        self.task.load_state_dict(found.model)
        checkpoint.restore_optimiser(self.optimiser, found.training)
        checkpoint.restore_random(found.training)
        self.step, self.best = found.step, found.meta["best"]
        self.seconds, self.outcome = found.meta["seconds"], found.meta["outcome"]

    def summary(self) -> Summary:
        """The outcome; the kept weights are loaded if they are not the last."""
        outcome = distributed.from_main(self.outcome)
        kept = self.best["step"] if self.better and self.best else self.step
        folder = self.checkpoints / f"step-{kept}"
        if kept != self.step:
            self.task.load_state_dict(checkpoint.load_weights(folder))
        return Summary(steps=self.step, kept=kept, checkpoint=folder, **outcome)

    # --- in the order they are called ---------------------------------------------------------

    def _newest(self) -> Path | None:
        folder = checkpoint.latest(self.checkpoints)
        if folder is None or checkpoint.read_meta(folder)["identity"] == self.meta["identity"]:
            return folder
        aside = self.checkpoints.with_name("checkpoints-of-other-parameters")
        shutil.rmtree(aside, ignore_errors=True)
        self.checkpoints.rename(aside)
        print(f"the parameters have changed: checkpoints moved to {aside}, starting afresh")
        return None

    def _open_logs(self) -> None:
        train, world = self.train, self.world
        quiet = not world.main
        self.progress = log.Progress(self.step, train.steps, self.order.mean, quiet)
        batch, micro_batch = f"batch {train.batch}", f"{train.micro_batch} (micro)"
        if train.sized is not None:
            batch = f"batch of {self.order.mean:.1f} examples on average"
            micro_batch = f"at most {train.sized.size} samples or tokens (micro)"
        self.progress.say(
            f"{batch} = {micro_batch} x {self.accumulation}"
            f" (accumulation) x {world.size} (processes), {world.device.type},"
            f" {'bfloat16 where it is safe' if self.mixed else 'float32'}"
        )
        if self.step:
            self.progress.say(f"resuming after step {self.step} of {train.steps}")
        if world.main:
            self.lines = log.JsonLines(self.work / "log.jsonl", self.step, train.log_every)

    def _batches(self) -> Iterator[dict[str, Any]]:
        loader: DataLoader[Any] = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=self.order,
            collate_fn=self.dataset.collate,
            num_workers=self.train.workers,
            pin_memory=self.world.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed: not from the run's generator
        )
        return iter(loader)

    def _backward(
        self, batches: Iterator[dict[str, Any]], step: int
    ) -> tuple[tuple[str, ...], Tensor]:
        """Gradients of the summed loss; names and totals of loss, count and what else is logged."""
        world, device, totals = self.world, self.world.device, None
        for a in range(self.accumulation):
            batch = _to(device, next(batches))
            # dropout depends on the place of the micro-batch in the run, not on who computes it
            place = a * world.size + world.rank
            _seed(device, self.seed, step, place)
            with distributed.exchange(self.model, now=a == self.accumulation - 1):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed):
                    out = self.model(batch)
                out["loss"].backward()
            names = ("loss", "count", *(name for name in out if name not in ("loss", "count")))
            values = torch.stack([out[name].detach().double() for name in names])
            totals = values if totals is None else totals + values
        assert totals is not None
        return names, distributed.add_up(totals)

    def _due(self, every: int | None) -> bool:
        return self.step == self.train.steps or (every is not None and self.step % every == 0)

    def _report(self) -> None:
        """Judge and log the steps since the last report; validate and save where due."""
        lines = self.meter.read()
        self._judge(lines)
        validate = self.validate is not None and self._due(self.validate_every)
        improved = validate and self._validated(lines[-1])
        if self.world.main:
            self.lines.write(lines)
            self.progress.update(lines[-1])
            if improved or self._due(self.train.checkpoint_every):
                self._save()
        self.meter.restart()  # the rate is that of training alone

    def _judge(self, lines: list[dict[str, Any]]) -> None:
        for count, line in enumerate(lines, start=1):
            try:
                for name in ("loss", "grad_norm"):
                    if not math.isfinite(line[name]):
                        raise NotFinite(
                            f"step {line['step']}: {name} is {line[name]}; the checkpoints in"
                            f" {self.checkpoints} are from before; try a lower optimiser.lr, a"
                            " longer warm-up or optimiser.clip"
                        )
                self.task.check(line["step"], line)
            except UserError:
                if self.world.main:
                    self.lines.write(lines[:count])
                self._close_logs()
                raise

    def _validated(self, line: dict[str, Any]) -> bool:
        """Add the metrics to the line; whether they are the best so far (and are to be kept)."""
        metrics: Metrics = {}
        if self.validate is not None and self.world.main:
            self.task.eval()
            with torch.no_grad():
                metrics = self.validate(self.task, self.step)
            self.task.train()
            self.progress.say(
                f"step {self.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items())
            )
        line["validation"] = metrics = distributed.from_main(metrics)
        if self.better is None:
            return False
        if self.best is not None and not self.better(metrics, self.best["validation"]):
            return False
        self.best = {"step": self.step, "validation": metrics}
        return True

    def _save(self) -> None:
        seconds = self.seconds + time.perf_counter() - self.started
        if self.step == self.train.steps:
            last = self.lines.recent[-1].get("validation", {})
            self.outcome = {
                "logs": log.means(self.lines.recent),
                "validation": self.best["validation"] if self.best else last,
                "seconds": seconds,
            }
        state = {"best": self.best, "seconds": seconds, "outcome": self.outcome}
        training = {**checkpoint.optimiser_state(self.optimiser), **checkpoint.random_state()}
        meta = {**self.meta, **state}
        try:
            checkpoint.save(self.checkpoints, self.step, self.task.state_dict(), training, meta)
        except OSError as error:
            self._unsaved(error)
        else:
            checkpoint.prune(self.checkpoints, KEEP)

    def _unsaved(self, error: OSError) -> None:
        """Go on without this checkpoint, unless it is the last one or has the best weights."""
        fault = f"no checkpoint of step {self.step} ({error.strerror or error})"
        best = self.best is not None and self.best["step"] == self.step
        if best or self.step == self.train.steps:
            self._close_logs()
            raise UserError(
                f"{self.checkpoints}: {fault}; make room and run the same again: it goes on"
                " from the checkpoint before"
            ) from None
        self.progress.say(f"{fault}; the one before stays, training goes on")

    def _close_logs(self) -> None:
        self.progress.close()
        if self.world.main:
            self.lines.close()


def _to(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _seed(device: torch.device, *numbers: int) -> None:
    """Seed PyTorch's generators from several numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    # torch.manual_seed would record a stack trace at each call while CUDA is not in use
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
