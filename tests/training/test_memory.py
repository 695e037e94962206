"""micro_batch: auto finds the largest power of two that fits, once, with the run's own steps."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import second_models
import torch
import trajectory
from small_builds import build
from tiny import Tiny, curve, train, weights
from tiny_models import KINDS
from torch import Tensor

from d2v import params
from d2v.training import devices, memory, optim
from d2v.training import step as step_module
from d2v.training.distributed import World
from d2v.training.task import Pretraining
from d2v.util.errors import OutOfMemory
from d2v.util.files import read_json, write_json

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
AUTO = params.Train(steps=1, batch=48, micro_batch="auto")
META = {"identity": "a"}


# --- the search and its record ----------------------------------------------------------------


def limit(most: int, asked: list[int]) -> memory.Fits:
    """A device on which `most` examples fit."""

    def fits(count: int) -> bool:
        asked.append(count)
        return count <= most

    return fits


@pytest.mark.parametrize(
    ("batch", "most", "found"),
    [(48, 1000, 16), (48, 8, 8), (48, 5, 4), (7, 9, 1), (64, 64, 64), (8, 0, 0)],
)
def test_the_largest_power_of_two_that_fits_and_divides(batch: int, most: int, found: int) -> None:
    asked: list[int] = []
    assert memory.largest(batch, limit(most, asked)) == found
    assert asked == sorted(set(asked))


@pytest.mark.parametrize(
    ("changes", "remedies"),
    [
        ({}, {"train.recompute: true", "train.cuda_graph: false"}),
        ({"cuda_graph": False}, {"train.recompute: true"}),
        ({"recompute": True}, set()),
    ],
)
def test_a_device_without_room_for_one_example_is_an_error(
    changes: dict[str, Any], remedies: set[str], tmp_path: Path
) -> None:
    """It names only what is not done already."""
    asked = AUTO.model_copy(update=changes)
    with pytest.raises(OutOfMemory, match="not even one example") as error:
        memory.settled(asked, tmp_path, ALONE, META, limit(0, []))
    every = ("train.recompute: true", "train.cuda_graph: false")
    assert {remedy for remedy in every if remedy in str(error.value)} == remedies
    assert not (tmp_path / memory.FILE).exists()


def test_it_is_found_once_and_recorded(tmp_path: Path) -> None:
    asked: list[int] = []
    fits = limit(4, asked)
    train, line = memory.settled(AUTO, tmp_path, ALONE, META, fits)
    assert train.micro_batch == 4
    assert line is not None
    assert "4 examples" in line
    record = {"micro_batch": 4, "batch": 48, "identity": "a"}
    assert read_json(tmp_path / memory.FILE) == record
    asked.clear()
    train, line = memory.settled(AUTO, tmp_path, ALONE, META, limit(16, asked))
    assert (train.micro_batch, line, asked) == (4, None, [])
    # of 3 processes each has 16 of 48 examples; of 16 each has 3, which 4 does not divide
    train, _ = memory.settled(AUTO, tmp_path, World(0, 16, CPU), META, fits)
    assert train.micro_batch == 1


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"micro_batch": 2, "batch": 48}, 2),
        ({"micro_batch": 2, "identity": "of a larger model"}, 8),
        ({"micro_batch": 0}, 8),
        ({"micro_batch": "2"}, 8),
    ],
)
def test_a_record_counts_if_it_is_of_this_run(
    record: dict[str, Any], found: int, tmp_path: Path
) -> None:
    write_json(tmp_path / memory.FILE, record)
    train, _ = memory.settled(AUTO, tmp_path, ALONE, META, limit(8, []))
    assert train.micro_batch == found


def test_numbers_stay(tmp_path: Path) -> None:
    given = AUTO.model_copy(update={"micro_batch": 2})
    assert memory.settled(given, tmp_path, ALONE, META, limit(1, [])) == (given, None)
    assert not (tmp_path / memory.FILE).exists()


def test_a_run_with_it_is_the_run_with_that_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "a", micro_batch=8)
    train(tmp_path / "b", micro_batch="auto")
    assert "micro_batch auto: 8 examples" in capsys.readouterr().out
    assert [x["loss"] for x in curve(tmp_path / "a")] == [x["loss"] for x in curve(tmp_path / "b")]
    assert weights(tmp_path / "a").keys() == weights(tmp_path / "b").keys()


def test_a_run_that_is_out_of_memory_after_all_says_which_number_to_set(tmp_path: Path) -> None:
    class Large(Tiny):
        """At most `most` examples fit, as of step 12."""

        calls, most = 0, 4

        def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            self.calls += 1
            if len(batch["x"]) > self.most and self.calls > 11:
                raise torch.OutOfMemoryError("CUDA out of memory.\nMore")
            return super().forward(batch)

    with pytest.raises(OutOfMemory, match=r"auto has chosen 8: set train\.micro_batch: 4; "):
        train(tmp_path / "a", Large(), micro_batch="auto")
    train(tmp_path / "a", Large(), micro_batch=4)
    assert [line["step"] for line in curve(tmp_path / "a")][-1] == 24

    none = Large()
    none.most = 0
    write_json(tmp_path / "b" / memory.FILE, {"micro_batch": 1})
    with pytest.raises(OutOfMemory, match=r"auto has chosen 1: set train\.recompute: true"):
        train(tmp_path / "b", none, micro_batch="auto")


# --- the trial --------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A forward pass of a trial."""

    examples: int
    length: int  # of the batch's inputs
    weights: torch.dtype
    autocast: bool
    filled: bool
    gradients: bool  # whether they are there already
    moments: int  # numbers in tensors that take their place
    recompute: bool


class Device:
    """A GPU simulated on the CPU: it holds what forward passes keep for their backward passes."""

    def __init__(self, total: float = 1e12) -> None:
        self.total, self.used, self.peak = total, 0, 0
        self.known: set[int] = set()
        self.seen: list[Seen] = []
        self.empty: list[weakref.ref[Tensor]] = []

    def reset(self, *_: Any) -> None:
        self.peak = self.used = 0
        self.known.clear()

    def empty_like(self, x: Tensor, *options: Any, **more: Any) -> Tensor:
        found = torch.empty(x.shape, dtype=x.dtype)
        self.empty.append(weakref.ref(found))
        return found

    def keep(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.used += storage.nbytes()
        self.peak = max(self.peak, self.used)
        if self.used > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x

    def forward(self, task: Any, batch: dict[str, Any], forward: Callable[..., Any]) -> Any:
        inputs = next(batch[k] for k in ("waves", "images", "tokens") if k in batch)
        self.seen.append(
            Seen(
                len(inputs),
                inputs.shape[-1],
                next(task.parameters()).dtype,
                torch.is_autocast_enabled("cpu"),
                "weight" in batch,
                all(p.grad is not None for p in task.parameters() if p.requires_grad),
                sum(x.numel() for ref in self.empty if (x := ref()) is not None),
                task.backbone().recompute,
            )
        )
        with torch.autograd.graph.saved_tensors_hooks(self.keep, lambda x: x):
            return forward(task, batch)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The simulated GPU, which everything takes for a real one."""
    found, forward = Device(), Pretraining.forward
    monkeypatch.setattr(Pretraining, "forward", lambda s, batch: found.forward(s, batch, forward))
    monkeypatch.setattr(memory, "measures", lambda device: True)
    monkeypatch.setattr(step_module, "fills", lambda device: True)
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: True)
    stubs: dict[str, Callable[..., Any]] = {
        "reset_peak_memory_stats": found.reset,
        "max_memory_allocated": lambda device: found.peak,
        "mem_get_info": lambda device: (found.total * 3 // 4, 2 * found.total),
        "memory_reserved": lambda device: found.total // 4,
        "synchronize": lambda device: None,
        "empty_cache": lambda: None,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    monkeypatch.setattr(torch, "empty_like", found.empty_like)
    return found


def trial(
    prepared: Path, kind: str, version: int = 1, backbone: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[memory.Trial, Any, Pretraining]:  # fmt: skip
    """The trial of a small pre-training, its data and its task."""
    values = {**trajectory.COMMON, **trajectory.KINDS[kind]}
    values["backbone"] = values["backbone"].model_copy(update=backbone or {})
    if version == 2:
        values |= second_models.changes(kind, values["encoder"], values["backbone"])
    p = params.Pretrain(**values)
    data = build(prepared / p.data, p.view, p.encoder, mask=p.mask, copies=p.copies)
    torch.manual_seed(5)
    task = Pretraining(p).train()
    asked = AUTO.model_copy(update=changes)
    return memory.Trial(task, data, optim.build(task, p.optimiser), asked, ALONE), data, task


def peak(device: Device, fits: memory.Trial, count: int) -> int:
    assert fits(count)
    return device.peak


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_examples_fit_as_memory_holds(
    kind: str, version: int, small_prepared: Path, tmp_path: Path, device: Device
) -> None:
    fits, *_ = trial(small_prepared, kind, version, cuda_graph=False)
    two, four = peak(device, fits, 2), peak(device, fits, 4)
    assert 1.2 * two < four < 2.1 * two  # waveforms are cropped to the shortest of four
    device.total = int(0.95 * four)  # raises in the middle of the forward pass
    found, _ = memory.settled(AUTO, tmp_path, ALONE, META, fits)
    assert found.micro_batch == 2
    device.total = int(four / 0.95)  # fits, but leaves too little
    assert not fits(4)
    device.total = int(four / 0.85)
    assert fits(4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_leaves_no_trace(
    kind: str, precision: str, small_prepared: Path, device: Device
) -> None:
    fits, _, task = trial(small_prepared, kind, precision=precision, backbone={"layer_drop": 0.5})
    before = {name: (p, p.detach().clone()) for name, p in task.named_parameters()}
    state = torch.get_rng_state()
    for device.total in (1e12, 1e3):
        assert fits(2) == (device.total == 1e12)
        for name, parameter in task.named_parameters():
            same, values = before[name]
            assert parameter is same
            assert parameter.grad is None
            assert torch.equal(parameter, values)
        assert torch.equal(torch.get_rng_state(), state)
        assert task.backbone().chosen is None


def test_the_longest_examples_are_tried(small_prepared: Path, device: Device) -> None:
    fits, data, _ = trial(small_prepared, "speech")
    longest = sorted(data.sizes.tolist(), reverse=True)
    assert longest[0] > data.sizes[0]
    for count in (1, 2):  # batches are cropped to their shortest waveform
        assert fits(count)
        assert device.seen[-1][:2] == (count, longest[count - 1])
    assert fits(len(longest) + 3)
    assert device.seen[-1].examples == len(longest) + 3


@pytest.mark.parametrize("precision", ["float32", "mixed", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_that_of_the_run(
    kind: str, precision: str, small_prepared: Path, device: Device
) -> None:
    fits, _, task = trial(small_prepared, kind, precision=precision)
    assert fits(2)
    (seen,) = device.seen
    half = precision == "bfloat16"
    assert seen.weights == (torch.bfloat16 if half else torch.float32)
    assert seen.autocast == (precision == "mixed")
    assert seen.filled
    assert seen.moments == 2 * sum(p.numel() for p in task.parameters() if p.requires_grad)
    assert seen.gradients != half  # the gradients of bfloat16 weights begin with the backward pass


def test_skipped_blocks_are_counted(small_prepared: Path, device: Device) -> None:
    every, *_ = trial(small_prepared, "text", backbone={"layer_drop": 0.0})
    skipping, *_ = trial(small_prepared, "text", backbone={"layer_drop": 0.99})
    assert peak(device, skipping, 4) >= peak(device, every, 4)


@pytest.mark.parametrize(
    ("changes", "layer_drop", "share"),
    [
        ({}, 0.0, 0.45),
        ({"cuda_graph": True}, 0.0, 0.45),
        ({"cuda_graph": False}, 0.0, 0.9),
        ({"recompute": True}, 0.0, 0.9),
        ({}, 0.1, 0.9),  # cannot be captured with this optimiser
    ],
)
def test_captured_graphs_leave_room_for_steps_without_one(
    changes: dict[str, Any], layer_drop: float, share: float, small_prepared: Path, device: Device
) -> None:
    fits, *_ = trial(small_prepared, "text", backbone={"layer_drop": layer_drop}, **changes)
    needed = peak(device, fits, 2)
    device.total = int(needed / (share - 0.02))
    assert fits(2)
    device.total = int(needed / (share + 0.02))
    assert not fits(2)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_run_that_recomputes_is_tried_like_that(
    recompute: bool, small_prepared: Path, tmp_path: Path, device: Device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Through the trainer, which also uses the number."""
    update = {"steps": 1, "recompute": recompute, "micro_batch": "auto", "cuda_graph": False}
    asked = trajectory.COMMON["train"].model_copy(update=update)
    monkeypatch.setitem(trajectory.COMMON, "train", asked)
    trajectory.train(small_prepared, tmp_path, "text")
    assert [seen.examples for seen in device.seen] == [1, 2, 4, 4]  # three trials and the step
    assert {seen.recompute for seen in device.seen} == {recompute}


def test_recomputed_blocks_need_less(small_prepared: Path, device: Device) -> None:
    fits, _, task = trial(small_prepared, "text", cuda_graph=False)
    whole = peak(device, fits, 4)
    task.recompute()
    assert peak(device, fits, 4) < 0.8 * whole
