"""The batches of a run, in order, on the model's device."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2v.training import devices


class Examples(Protocol):
    """What the loop needs from a dataset: examples by (epoch, index), collated into a batch."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def sizes(self) -> Any: ...  # (N,) integers; needed if train.sized is set
    def __len__(self) -> int: ...
    def __getitem__(self, key: tuple[int, int], /) -> Any: ...
    def collate(self, examples: list[Any], /) -> dict[str, Any]: ...
    def finish(self, batch: dict[str, Any], device: torch.device, /) -> dict[str, Any]: ...


def batches(
    dataset: Examples, order: Iterable[list[tuple[int, int]]], workers: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Collated batches of the examples that `order` names, with their tensors on the device.

    On a GPU, a separate stream copies and finishes them, asynchronously to the computation.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=order,
        collate_fn=dataset.collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader's seed must not come from the run's generator
    )
    if device.type != "cuda":
        for batch in loader:
            yield dataset.finish(batch, device)
        return
    side = torch.cuda.Stream(device)
    for batch in loader:
        # the host has already queued the previous step, which the GPU computes meanwhile
        with torch.cuda.stream(side):
            batch = dataset.finish(devices.move(batch, device), device)
        now = torch.cuda.current_stream(device)
        now.wait_stream(side)
        for value in batch.values():
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(now)
        yield batch
