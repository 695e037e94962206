"""Steps of a pre-training replayed from CUDA graphs, so that the host does not limit a fast GPU.

Both halves of a step (d2v.training.step) are captured: forward and backward of a micro-batch, and
clipping, AdamW and the moving average. A graph reads and writes fixed addresses. Therefore batches
are copied into fixed tensors, gradients are zeroed instead of freed, and the learning rate, the
decay and the choice of skipped blocks are tensors. Random numbers, results and checkpoints are
those of the uncaptured step, so a run can be resumed either way.

A graph fits one shape of its inputs, so masked positions are filled up to a few lengths. Shapes
that recur are captured, at most MOST of them; batches of other shapes are computed uncaptured.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2v.model.transformer import Transformer
from d2v.training import optim
from d2v.training.adam import FairseqAdamW
from d2v.training.step import Step, Sums, filled_up
from d2v.training.task import Pretraining
from d2v.util.errors import UserError

MOST = 64  # graphs of one half that are kept
WARM_UP = 3  # uncaptured calls before the first capture, which compile and allocate
BEFORE = 2  # uncaptured calls of one shape before it is captured
TOLD_AFTER = 1000  # calls after which a low share of replays is reported
Inputs = dict[str, Tensor]
# runs a function once without computing, returns its result, and a function that computes it
Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]


class CudaGraphs:
    """Captures functions as CUDA graphs that share memory; only one of them runs at a time."""

    def __init__(self) -> None:
        self.memory = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Capture `function`; raises RuntimeError if it does something that a graph cannot."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread may allocate pinned memory at the same time
        with torch.cuda.graph(graph, pool=self.memory, capture_error_mode="thread_local"):
            found = function()
        return found, graph.replay


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
        self.closed = False

    def __call__(self, inputs: Inputs) -> Tensor:
        """Result of the function; it stays valid after later calls."""
        key = tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        self.calls += 1
        if key not in self.graphs and not self._captured(key, inputs):
            self.seen[key] += 1
            return self.function(inputs)
        fixed, found, replay = self.graphs[key]
        torch._foreach_copy_(list(fixed.values()), [inputs[name] for name in fixed])
        replay()
        self.replays += 1
        return found.clone()

    def _captured(self, key: Any, inputs: Inputs) -> bool:
        """Capture a graph for inputs like these, if it is time to."""
        if self.closed or self.calls <= WARM_UP or self.seen[key] < BEFORE:
            return False
        if len(self.graphs) == self.most:
            return False
        fixed = {name: value.clone() for name, value in inputs.items()}
        try:
            found, replay = self.capture(lambda: self.function(fixed))
        except RuntimeError as error:
            self.closed = True
            self.refused(str(error).splitlines()[0])
            return False
        self.graphs[key] = (fixed, found, replay)
        return True


class CapturedStep(Step):
    """The step of a pre-training, with both halves replayed where they are captured."""

    def __init__(
        self, *arguments: Any, capture: Capture, say: Callable[[str], None], **options: Any
    ) -> None:
        """Arguments are those of Step; `say` prints a line to the log."""
        super().__init__(*arguments, **options)
        assert isinstance(self.task, Pretraining)
        self.pretraining, self.say, self.told = self.task, say, False
        self.backward = Pool(self._backward, capture, self._refused)
        self.moving = Pool(self._moving, capture, self._refused)

    def gradients(self, batch: dict[str, Any], last: bool = True) -> Tensor:
        """As Step."""
        inputs = filled_up({k: v for k, v in batch.items() if isinstance(v, Tensor)})
        chosen = self._backbone().choose()
        if chosen is not None:
            inputs["chosen"] = chosen.to(self.device)
        found = self.backward(inputs)
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

    def _backward(self, inputs: Inputs) -> Tensor:
        inputs = dict(inputs)
        backbone = self._backbone()
        backbone.chosen = inputs.pop("chosen", None)
        try:
            return self.backpropagated(inputs)
        finally:
            backbone.chosen = None

    def _moving(self, inputs: Inputs) -> Tensor:
        groups: list[dict[str, Any]] = self.optimiser.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        for group in groups:
            group["lr"] = (inputs["rate"] * group["scale"]).float()
            group["capturable"] = self.device.type == "cuda"
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

    def _backbone(self) -> Transformer:
        found = self.task.backbone()
        assert isinstance(found, Transformer)
        return found

    def _refused(self, why: str) -> None:
        if self.working is not None:
            self.working.forget()  # what a failed capture has left
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
    if wanted is False or (wanted == "auto" and capture is None and step.device.type != "cuda"):
        return step
    why = obstacle(step.task, step.optimiser, step.world, recompute)
    if capture is None and step.device.type != "cuda":
        why = "there is no GPU"
    if why and wanted is True:
        raise UserError(f"train.cuda_graph: true: {why}; set it to auto or false")
    if why:
        say(f"the step is not captured as a CUDA graph: {why}")
        return step
    return CapturedStep(
        step.task, step.model, step.optimiser, clip=step.clip, mixed=step.mixed,
        working=step.working, capture=capture or CudaGraphs(), say=say,
    )  # fmt: skip
