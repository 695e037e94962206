"""Computing in bfloat16 with float32 weights behind it (params.Train.precision: bfloat16)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Working:
    """bfloat16 copies of a task's weights, the teacher's included, with which the task computes.

    The float32 weights, the masters, are those that the optimiser and the moving average change and
    that checkpoints store. Copies are refreshed from them once per update, so that no forward pass
    casts weights. Encoders cast images and waveforms to the type of their weights; nothing else of
    a batch is rounded. Gradients are collected in the masters, in float32. Norms, softmax and
    losses compute their sums in float32, whatever their input.
    """

    def __init__(self, task: nn.Module) -> None:
        """Replace the weights of `task`; call `restore` at the end."""
        copies: dict[int, nn.Parameter] = {}
        self.places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        for module in task.modules():
            for name, master in module._parameters.items():
                if master is None or not master.is_floating_point():
                    continue
                copy = copies.get(id(master))
                if copy is None:
                    half = master.detach().bfloat16()
                    copy = copies[id(master)] = nn.Parameter(half, master.requires_grad)
                self.places.append((module, name, master, copy))
        both = {id(copy): (master, copy) for _, _, master, copy in self.places}
        self.pairs = list(both.values())
        self._install()

    @contextmanager
    def masters(self) -> Iterator[None]:
        """Context in which the task holds its float32 weights."""
        self.restore()
        try:
            yield
        finally:
            self._install()

    def restore(self) -> None:
        """Give the task its float32 weights back."""
        for module, name, master, _ in self.places:
            module._parameters[name] = master

    def _install(self) -> None:
        for module, name, _, copy in self.places:
            module._parameters[name] = copy

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of the copies to those of the masters, and forget them."""
        for master, copy in self.pairs:
            if copy.grad is None:
                continue
            if master.grad is None:
                master.grad = copy.grad.float()
            else:
                master.grad += copy.grad
            copy.grad = None

    def forget(self) -> None:
        """Drop the gradients of the copies."""
        for _, copy in self.pairs:
            copy.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Set the copies to the rounded masters; call this after each update."""
        masters, copies = zip(*self.pairs, strict=True)
        torch._foreach_copy_(list(copies), list(masters))
