"""Steps of a pre-training replayed from CUDA graphs, so that the host does not limit a fast GPU.

Both halves of a step (d2v.training.step) are captured: forward and backward of a micro-batch, and
clipping, AdamW and the moving average. A graph reads and writes fixed addresses. Therefore batches
are copied into fixed tensors, gradients are zeroed instead of freed, and the learning rate, the
decay and the choice of skipped blocks are tensors. Random numbers, results and checkpoints are
those of the uncaptured step on one GPU, so a run can be resumed either way.

A capture that fails half-way may leave the device in a bad state. Therefore one step is rehearsed
before: it is computed as usual, while PyTorch reports whatever makes the host wait.

A graph fits one shape of its inputs, so masked positions are filled up to a few lengths. Shapes
that recur are captured, at most MOST of them; batches of other shapes are computed uncaptured.
"""

import gc
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from d2v.training import optim
from d2v.training.adam import FairseqAdamW
from d2v.training.step import Step, Sums, filled_up, fills
from d2v.training.task import Pretraining
from d2v.util.errors import UserError

MOST = 64  # graphs of one half that are kept
WARM_UP = 3  # uncaptured calls before the first capture, which compile and allocate
BEFORE = 2  # uncaptured calls of one shape before it is captured
TOLD_AFTER = 1000  # calls after which a low share of replays is reported
Inputs = dict[str, Tensor]
Function = Callable[[], Tensor]


class Capture(Protocol):
    """What captures functions."""

    def rehearse(self, function: Function) -> tuple[Tensor, str]:
        """The function's result, and why it cannot be captured, or nothing."""

    def __call__(self, function: Function) -> tuple[Tensor, Callable[[], None]]:
        """Run a function without computing; return its result, and a function that computes it.

        Raises RuntimeError if that is not possible.
        """


class CudaGraphs:
    """Captures functions as CUDA graphs that share memory; only one of them runs at a time."""

    def __init__(self) -> None:
        self.memory = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()

    def rehearse(self, function: Function) -> tuple[Tensor, str]:
        """As Capture; a host that waits for the device is what a graph cannot contain."""
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                found = function()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        waits = [w for w in caught if "synchronizing" in str(w.message)]
        why = f"{waits[0].filename}:{waits[0].lineno} makes the host wait" if waits else ""
        return found, why

    def __call__(self, function: Function) -> tuple[Tensor, Callable[[], None]]:
        """As Capture."""
        torch.cuda.synchronize()
        gc.collect()  # else it may free a graph during the capture
        torch.cuda.empty_cache()
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        state = torch.cuda.get_rng_state()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            # thread_local: the loader's thread may allocate pinned memory at the same time
            graph.capture_begin(pool=self.memory, capture_error_mode="thread_local")
            try:
                found = function()
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()
                self._clean(state)
                raise
            try:
                graph.capture_end()
            except RuntimeError:
                self._clean(state)
                raise
        current.wait_stream(self.stream)
        return found, graph.replay

    def _clean(self, state: Tensor) -> None:
        """Undo what a capture that failed leaves behind where `capture_end` fails, too.

        Memory would go on being taken from the graph's pool and never be given back, and the random
        numbers, whose state was `state`, would be refused outside of a capture.
        """
        device = torch.cuda.current_device()
        with suppress(RuntimeError, AttributeError):  # it has ended
            torch._C._cuda_endAllocateToPool(device, self.memory)
        generator = torch.Generator(f"cuda:{device}")
        generator.set_state(state)
        torch.cuda.default_generators[device].graphsafe_set_state(generator)


class Pool:
    """A function of tensors, replayed where its graph for inputs of these shapes is captured."""

    def __init__(
        self,
        function: Callable[[Inputs], Tensor],
        capture: Capture,
        refused: Callable[[str], None],
        most: int = MOST,
    ) -> None:
        """`refused` is told why a capture has failed; the function is then never captured."""
        self.function, self.capture, self.refused, self.most = function, capture, refused, most
        self.graphs: dict[Any, tuple[Inputs, Tensor, Callable[[], None]]] = {}
        self.seen: Counter[Any] = Counter()
        self.calls = self.replays = 0
        self.rehearsed = self.closed = False

    def __call__(self, inputs: Inputs) -> Tensor:
        """Result of the function; it stays valid after later calls."""
        key = tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        self.calls += 1
        if key not in self.graphs:
            if not self._due(key):
                self.seen[key] += 1
                return self.function(inputs)
            if not self.rehearsed:
                return self._rehearse(inputs)
            if not self._captured(key, inputs):
                return self.function(inputs)
        fixed, found, replay = self.graphs[key]
        torch._foreach_copy_(list(fixed.values()), [inputs[name] for name in fixed])
        replay()
        self.replays += 1
        return found.clone()

    def close(self) -> None:
        """Drop all graphs, and capture no more."""
        self.closed = True
        self.graphs.clear()

    def _due(self, key: Any) -> bool:
        """Whether it is time to capture a graph for these shapes."""
        if self.closed or self.calls <= WARM_UP or self.seen[key] < BEFORE:
            return False
        return len(self.graphs) < self.most

    def _rehearse(self, inputs: Inputs) -> Tensor:
        self.rehearsed = True
        found, why = self.capture.rehearse(lambda: self.function(inputs))
        if why:
            self.close()
            self.refused(why)
        return found

    def _captured(self, key: Any, inputs: Inputs) -> bool:
        fixed = {name: value.clone() for name, value in inputs.items()}
        try:
            found, replay = self.capture(lambda: self.function(fixed))
        except RuntimeError as error:
            self.close()
            self.refused(next(iter(str(error).splitlines()), type(error).__name__))
            return False
        self.graphs[key] = (fixed, found, replay)
        return True


class CapturedStep(Step):
    """The step of a pre-training, with both halves replayed where they are captured."""

    def __init__(
        self, *arguments: Any, capture: Capture, say: Callable[[str], None],
        demanded: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        """Arguments are those of Step; `say` prints a line to the log.

        If graphs are `demanded`, what prevents them is a UserError.
        """
        super().__init__(*arguments, **options)
        assert isinstance(self.task, Pretraining)
        self.pretraining, self.say, self.told, self.demanded = self.task, say, False, demanded
        self.backward = Pool(self.backpropagated, capture, self._refused)
        self.moving = Pool(self._moving, capture, self._refused)

    def gradients(self, batch: dict[str, Any], last: bool = True) -> Tensor:
        """As Step."""
        tensors = filled_up({k: v for k, v in batch.items() if isinstance(v, Tensor)})
        found = self.backward(self.with_chosen(tensors))
        self._report()
        return found

    def update(self, sums: Sums, rate: float, step: int) -> tuple[Tensor, dict[str, float]]:
        """As Step."""
        if not getattr(self.optimiser, "settled", True):  # its epsilon is a number on the host
            optim.set_rate(self.optimiser, rate)
            norm = self._move(sums, keep=True)
            return norm, self._after(step)
        decay = self.pretraining.decay(step)
        given = {"rate": rate, "decay": decay}
        numbers = {k: torch.full((), v, dtype=torch.float64, device=self.device)
                   for k, v in given.items()}  # fmt: skip
        return self.moving({**numbers, **{k: sums[k] for k in ("count", "loss")}}), {
            "ema_decay": decay
        }

    # --- what is captured ---------------------------------------------------------------------

    def _moving(self, inputs: Inputs) -> Tensor:
        groups: list[dict[str, Any]] = self.optimiser.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        for group in groups:
            group["lr"] = (inputs["rate"] * group["scale"]).float()
            group["capturable"] = self.device.type != "cpu"
        try:
            norm = self._move(inputs, keep=True)
        finally:
            for group, (lr, capturable) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = lr, capturable
        if self.working is None:
            self.pretraining.model.update_teacher(inputs["decay"])
        else:
            with self.working.masters():
                self.pretraining.model.update_teacher(inputs["decay"])
            self.working.refresh()
        return norm

    # --- reports ------------------------------------------------------------------------------

    def _refused(self, why: str) -> None:
        if self.demanded:
            raise refusal(why)
        if self.working is not None:
            self.working.forget()  # what a failed capture has left
        for pool in (self.backward, self.moving):
            pool.close()
        self.say(f"the step is not captured as a CUDA graph: {why}")

    def _report(self) -> None:
        pool = self.backward
        if self.told or pool.closed or pool.calls < TOLD_AFTER:
            return
        self.told = True
        if pool.replays < pool.calls / 2:
            self.say(
                f"only {pool.replays} of {pool.calls} micro-batches had one of the"
                f" {len(pool.graphs)} captured shapes; the others were computed uncaptured"
                " (view.lengths crops waveforms to few lengths)"
            )


def obstacle(task: Any, optimiser: torch.optim.Optimizer, world: int, recompute: bool) -> str:
    """Why the step of a task cannot be captured; empty if it can."""
    if not isinstance(task, Pretraining):
        return "only pre-training is captured"
    if world > 1:
        return f"{world} processes exchange gradients"
    if recompute:
        return "train.recompute saves and restores the state of the random numbers"
    # a block that is skipped on the device has a gradient of zero, not none
    if task.model.student.backbone.layer_drop and not isinstance(optimiser, FairseqAdamW):
        return "backbone.layer_drop needs optimiser.missing_gradients: zero"
    return ""


def build(
    wanted: bool | str, step: Step, recompute: bool, say: Callable[[str], None],
    capture: Capture | None = None,
) -> Step:  # fmt: skip
    """The step as params.Train.cuda_graph asks for it.

    `capture` replaces CUDA graphs (in tests). Raises UserError if a graph is demanded but not
    possible.
    """
    why = obstacle(step.task, step.optimiser, step.world, recompute)
    if fills(step.device) and not why:
        step.selects = True
    if wanted is False or (wanted == "auto" and capture is None and step.device.type != "cuda"):
        return step
    if capture is None and step.device.type != "cuda":
        why = "there is no GPU"
    if why and wanted is True:
        raise refusal(why)
    if why:
        say(f"the step is not captured as a CUDA graph: {why}")
        return step
    return CapturedStep(
        step.task, step.model, step.optimiser, clip=step.clip, mixed=step.mixed,
        working=step.working, capture=capture or CudaGraphs(), say=say, demanded=wanted is True,
    )  # fmt: skip


def refusal(why: str) -> UserError:
    """The error that graphs are demanded but not possible."""
    return UserError(f"train.cuda_graph: true: {why}; set it to auto or false")
