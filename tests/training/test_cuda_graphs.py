"""What CudaGraphs asks of PyTorch, with a stand-in for the GPU that notes it."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from d2v.training.graphs import CudaGraphs


class Gpu:
    """Notes calls; a capture that is `broken` cannot be ended, as after an illegal operation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
        self.calls: list[str] = []
        self.broken = broken
        self.generators = [self]
        stand_ins: dict[str, Any] = {
            "graph_pool_handle": lambda: (0, 1),
            "Stream": lambda: self,
            "CUDAGraph": lambda: self,
            "current_stream": lambda: self,
            "stream": self.stream,
            "synchronize": lambda: self.calls.append("synchronize"),
            "empty_cache": lambda: None,
            "get_rng_state": lambda: torch.tensor([7]),
            "current_device": lambda: 0,
            "default_generators": self.generators,
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": lambda mode: self.calls.append(f"mode {mode}"),
        }
        for name, value in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch, "Generator", lambda device: self)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocation, raising=False)

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.calls.append("enter stream")
        try:
            yield
        finally:
            self.calls.append("leave stream")

    def wait_stream(self, stream: Any) -> None:
        self.calls.append("wait")

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert (pool, capture_error_mode) == ((0, 1), "thread_local")
        self.calls.append("begin")

    def capture_end(self) -> None:
        self.calls.append("end")
        if self.broken:
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        self.calls.append("replay")

    def end_allocation(self, device: int, pool: Any) -> None:
        self.calls.append("end allocation")
        if not self.broken:
            raise RuntimeError("not currently recording to this pool")

    def set_state(self, state: torch.Tensor) -> None:
        self.calls.append(f"generator {state.tolist()}")

    def graphsafe_set_state(self, generator: Any) -> None:
        self.calls.append("generator replaced")


def fails() -> torch.Tensor:
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_capture_runs_on_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, broken=False)
    found, replay = CudaGraphs()(lambda: torch.ones(2))
    assert gpu.calls == [
        "synchronize", "wait", "enter stream", "begin", "end", "leave stream", "wait"
    ]  # fmt: skip
    replay()
    assert gpu.calls[-1] == "replay"
    assert found.tolist() == [1, 1]


@pytest.mark.parametrize("broken", [False, True])
def test_after_a_capture_that_failed_all_is_as_before(
    broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first error is told, not the one that follows from it."""
    gpu = Gpu(monkeypatch, broken)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        CudaGraphs()(fails)
    assert gpu.calls[3:] == [
        "begin", "end", "end allocation", "generator [7]", "generator replaced", "leave stream"
    ]  # fmt: skip


def test_a_capture_that_only_its_end_finds_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, broken=True)
    with pytest.raises(RuntimeError, match="previous error"):
        CudaGraphs()(lambda: torch.ones(2))
    assert gpu.calls[-2:] == ["generator replaced", "leave stream"]


def test_a_rehearsal_computes_and_tells_where_the_host_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch, broken=False)

    def waits() -> torch.Tensor:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return torch.ones(3)

    def other() -> torch.Tensor:
        warnings.warn("lr_scheduler before optimizer", stacklevel=1)
        return torch.ones(3)

    found, why = CudaGraphs().rehearse(waits)
    assert found.tolist() == [1, 1, 1]
    assert "test_cuda_graphs.py:" in why
    assert why.endswith("makes the host wait")
    assert CudaGraphs().rehearse(other)[1] == ""
    assert gpu.calls == ["mode warn", "mode 0"] * 2
