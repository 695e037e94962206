"""An optimiser step in two halves: the gradient of each micro-batch, and the update.

Both halves only queue work on the device. What a step needs from the host (seeds, learning rate,
decay of the moving average) is known before each half starts.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2v.model.transformer import Transformer
from d2v.training import optim
from d2v.training.precision import Working
from d2v.training.task import Task

Sums = dict[str, Tensor]


class Step:
    """The two halves, computed as PyTorch's eager execution or torch.compile does."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        clip: float | None,
        mixed: bool = False,
        working: Working | None = None,
        world: int = 1,
    ) -> None:
        """`model` is the task, or the task wrapped for exchanging gradients.

        `mixed` computes under autocast. `working` holds the task's bfloat16 weights, if it computes
        with such. `world` is the number of processes.
        """
        self.task, self.model, self.optimiser = task, model, optimiser
        self.clip, self.mixed, self.working, self.world = clip, mixed, working, world
        self.parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.shapes: dict[str, torch.Size] = {}  # of the task's outputs
        # whether the device selects the blocks that are skipped, as it does in a captured step:
        # all blocks are computed then, and dropout draws the same numbers
        self.selects = False

    def gradients(self, batch: dict[str, Any], last: bool = True) -> Tensor:
        """Backpropagate the summed loss of a micro-batch; return the task's outputs, flattened.

        `last` says that the update follows. The result (N,) is float64.
        """
        if fills(self.device) and "masked" in batch:
            batch = filled_up(batch)
        return self.backpropagated(self.with_chosen(batch) if self.selects else batch, last)

    def with_chosen(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with `chosen` (depth,), the blocks to compute, if the task skips blocks."""
        chosen = self._backbone().choose()
        if chosen is None:
            return batch
        if self.device.type == "cuda":
            chosen = chosen.pin_memory()  # else the host waits for the copy
        return {**batch, "chosen": chosen.to(self.device, non_blocking=True)}

    def backpropagated(self, batch: dict[str, Any], last: bool = True) -> Tensor:
        """As `gradients`, for a batch that is complete; `chosen` may be in it."""
        batch = dict(batch)
        chosen = batch.pop("chosen", None)
        if chosen is not None:
            self._backbone().chosen = chosen
        try:
            return self._backpropagated(batch, last)
        finally:
            if chosen is not None:
                self._backbone().chosen = None

    def _backpropagated(self, batch: dict[str, Any], last: bool) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            out = self.model(batch)
        out["loss"].backward()
        if self.working is not None and (last or self.world == 1):
            self.working.collect()
        self.shapes = {name: value.shape for name, value in out.items()}
        return torch.cat([value.detach().double().flatten() for value in out.values()])

    def named(self, values: Tensor) -> Sums:
        """Outputs of the task, by name, from (a sum of) results of `gradients`."""
        parts = values.split([shape.numel() for shape in self.shapes.values()])
        return {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}

    def update(self, sums: Sums, rate: float, step: int) -> tuple[Tensor, dict[str, float]]:
        """Clip, update parameters and teacher; return the gradient's norm and what to log.

        `sums` are the task's outputs summed over the global batch, `rate` is the learning rate, and
        `step` counts updates from 1.
        """
        optim.set_rate(self.optimiser, rate)
        norm = self._move(sums)
        return norm, self._after(step)

    def _backbone(self) -> Transformer:
        found = self.task.backbone()
        assert isinstance(found, Transformer)
        return found

    def _move(self, sums: Sums, keep: bool = False) -> Tensor:
        scale = self.world / sums["count"].clamp(min=1)  # undoes DDP's mean
        norm = optim.scale_and_clip(self.parameters, scale.float(), self.clip)
        optim.update(self.optimiser, norm, sums["loss"], keep)
        return norm

    def _after(self, step: int) -> dict[str, float]:
        if self.working is None:
            return self.task.after_step(step)
        with self.working.masters():
            logs = self.task.after_step(step)
        self.working.refresh()
        return logs


def fills(device: torch.device) -> bool:
    """Whether batches are filled up: on a GPU, where few shapes mean few compilations and graphs.

    Captured and uncaptured steps on a GPU thus draw the same dropout.
    """
    return device.type == "cuda"


def filled_up(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch whose `masked` (M,) is filled up to one of few lengths.

    `weight` (M,) is 1 at masked positions and 0 at those that were added, which are position 0.
    Lengths are multiples of an eighth to a quarter of M: at most an eighth of the work at masked
    positions, which is little, is wasted.
    """
    masked = batch["masked"]
    count = len(masked)
    multiple = max(2 ** max(count - 1, 1).bit_length() // 8, 8)
    more = -count % multiple
    weight = masked.new_ones(count, dtype=torch.float32)
    return {**batch, "masked": F.pad(masked, (0, more)), "weight": F.pad(weight, (0, more))}
