"""Checkpoints written in the background: the loop waits only for a copy of the tensors."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v.training import checkpoint
from d2v.util.errors import UserError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Write:
    """A checkpoint that is being written."""

    step: int
    needed: bool
    future: "Future[None]"


class Saver:
    """Writes one checkpoint at a time, and keeps the newest `keep` and the best one.

    The copy takes as much CPU memory as the weights and the optimiser's moments; the next save
    reuses it.
    """

    def __init__(self, root: Path, keep: int, say: Callable[[str], None]) -> None:
        self.root, self.keep, self.say = root, keep, say
        self.copies: dict[str, Tensor] = {}
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.write: _Write | None = None
        self.last = time.monotonic()  # when the newest save started

    def save(
        self, step: int, model: Tensors, training: Tensors, meta: Mapping[str, Any], needed: bool
    ) -> None:
        """Start writing a copy of the tensors to `<root>/step-<step>`, after the previous write.

        The run cannot do without a checkpoint that is `needed`. Raises as `wait`, for the previous
        write.
        """
        self.wait()
        self.last = time.monotonic()
        copies = self._copy({"model": model, "training": training})
        future = self.pool.submit(self._save, step, copies, meta)
        self.write = _Write(step, needed, future)

    def poll(self) -> None:
        """Handle the result of a write that is done, without waiting; raises as `wait`."""
        if self.write is not None and self.write.future.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the write in progress, if there is one.

        If it failed, this is reported and training continues; raises UserError if the checkpoint
        was `needed`.
        """
        write, self.write = self.write, None
        if write is None:
            return
        try:
            write.future.result()
        except OSError as error:
            lost = f"the checkpoint of step {write.step} was not saved ({error.strerror or error})"
            if write.needed:
                raise UserError(
                    f"{self.root}: {lost}; free disk space and run the same command again to"
                    " resume from the previous checkpoint"
                ) from None
            self.say(f"{lost}; the previous one is kept, and training continues")

    def close(self) -> None:
        """Let a write in progress finish and ignore its result."""
        self.pool.shutdown(wait=True)

    def _save(self, step: int, copies: Mapping[str, Tensors], meta: Mapping[str, Any]) -> None:
        checkpoint.save(self.root, step, copies["model"], copies["training"], meta)
        checkpoint.prune(self.root, self.keep)

    def _copy(self, groups: Mapping[str, Tensors]) -> dict[str, dict[str, Tensor]]:
        """Copies of the tensors on the CPU, in memory that the next call reuses."""
        copies: dict[str, dict[str, Tensor]] = {}
        fresh: dict[str, Tensor] = {}
        for group, tensors in groups.items():
            copies[group] = {}
            for name, tensor in tensors.items():
                place = f"{group}/{name}"
                copy = self.copies.get(place)
                if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                copies[group][name] = fresh[place] = copy.copy_(tensor.detach(), non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.copies = fresh
        return copies
