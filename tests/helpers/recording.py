"""What stands for a CUDA graph in tests without a GPU: recorded operators that are replayed.

Like a graph, a recording has fixed addresses and runs no Python. What a graph cannot do raises
RuntimeError: reading a number of the device, or a shape that depends on values.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2v.model.encoders.speech import FrontEnd
from d2v.model.kernels import attention, dropout, linear, windows

aten = torch.ops.aten
WAITS = "makes the host wait for the device"
READS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
    aten.equal.default, aten.is_nonzero.default, aten._unique2.default, aten.item.default,
}  # fmt: skip


def without_cpu_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the code that is for CPUs only, which works on the host."""
    for module in (dropout, attention):
        monkeypatch.setattr(module, "own", lambda x: False)
    for module in (linear, windows):
        monkeypatch.setattr(module, "fits", lambda x, operations: False)
    monkeypatch.setattr(FrontEnd, "compiled", True)


class Watched(TorchDispatchMode):
    """Refuses operators that a graph cannot contain; `host` also refuses tensors on the host."""

    def __init__(self, host: bool = False) -> None:
        super().__init__()
        self.host, self.calls = host, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            raise RuntimeError(f"{func} {WAITS}")
        if self.host and func is aten.lift_fresh.default:  # torch.tensor(number)
            raise RuntimeError(f"{func} copies a number from the host")
        found = func(*args, **kwargs)
        if self.host:
            for x in tree_leaves((args, kwargs, found)):
                if isinstance(x, Tensor) and x.device.type == "cpu":
                    raise RuntimeError(f"{func} uses a tensor on the host, {tuple(x.shape)}")
        self.calls.append((func, args, kwargs, found))
        return found


class Waiting(TorchDispatchMode):
    """Notes the operators for which a host would wait, as PyTorch does on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.found.append(f"{func} {WAITS}")
        return func(*args, **(kwargs or {}))


class Recordings:
    """Captures as d2v.training.graphs.CudaGraphs does; counts replays of each capture."""

    def __init__(self, blind: bool = False) -> None:
        """If `blind`, a rehearsal sees nothing."""
        self.blind = blind
        self.each: list[int] = []
        self.rehearsals = 0

    @property
    def captures(self) -> int:
        """Number of captures that have not failed."""
        return len(self.each)

    @property
    def replays(self) -> int:
        """Number of replays."""
        return sum(self.each)

    def rehearse(self, function: Callable[[], Tensor]) -> tuple[Tensor, str]:
        """As graphs.Capture."""
        self.rehearsals += 1
        with Waiting() as waiting:
            found = function()
        return found, "" if self.blind else next(iter(waiting.found), "")

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """As graphs.Capture."""
        with Watched() as watched:
            found = function()
        fresh, number = True, len(self.each)
        self.each.append(0)

        def replay() -> None:
            nonlocal fresh
            self.each[number] += 1
            if fresh:  # unlike a capture, the recording has computed already
                fresh = False
                return
            with torch.inference_mode():
                for func, args, kwargs, before in watched.calls:
                    now = func(*args, **kwargs)
                    for old, new in zip(tree_leaves(before), tree_leaves(now), strict=True):
                        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                            old.copy_(new)

        return found, replay
