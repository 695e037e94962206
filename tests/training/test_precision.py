"""bfloat16 weights compute; float32 weights learn, are saved and come back."""

from pathlib import Path

import pytest
import torch
import trajectory
from tiny_models import KINDS, make

from d2v.training import checkpoint, log
from d2v.training.precision import Working
from d2v.training.step import Step, filled_up


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_bfloat16_and_gradients_are_collected_in_float32(kind: str) -> None:
    task, batch = make(kind)
    names = list(task.state_dict())
    masters = dict(task.named_parameters())
    task.train()
    working = Working(task)
    seen: set[torch.dtype] = set()
    for block in [*task.model.student.backbone.blocks, *task.model.teacher.backbone.blocks]:
        block.register_forward_hook(
            lambda _, inputs, out: seen.update({inputs[0].dtype, out[0].dtype})
        )
    out = task(batch)
    assert seen == {torch.bfloat16}
    assert out["loss"].dtype == torch.float32
    out["loss"].backward()
    working.collect()
    trained = {name: p for name, p in masters.items() if p.requires_grad}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.values())
    assert all(copy.grad is None for _, copy in working.pairs)
    assert all(p.dtype == torch.bfloat16 for p in task.parameters())
    with working.masters():
        assert all(p is masters[name] for name, p in task.named_parameters())
    with torch.no_grad():
        for master, _ in working.pairs:
            master += 1
    working.refresh()
    assert all(torch.equal(copy, master.bfloat16()) for master, copy in working.pairs)
    working.restore()
    assert list(task.state_dict()) == names
    assert all(p.dtype == torch.float32 for p in task.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_many_masked_positions_are_counted_exactly(kind: str) -> None:
    """bfloat16 has 8 bits: with rounded weights of positions, 1,151 of them would be 1,152."""
    task, batch = make(kind)
    masked = batch["mask"].flatten().nonzero().flatten()
    batch["masked"] = masked.repeat(-(-1151 // len(masked)))[:1151]
    working = Working(task.train())
    step = Step(task, task, torch.optim.SGD(task.parameters()), clip=None, working=working)
    found = step.named(step.backpropagated(filled_up(batch)))
    working.restore()
    exact = Step(task, task, torch.optim.SGD(task.parameters()), clip=None)
    expected = exact.named(exact.backpropagated(batch))
    assert found["count"] == expected["count"] == 1151


@pytest.mark.slow
@pytest.mark.parametrize("kind", trajectory.KINDS)
def test_a_run_is_saved_in_float32_and_learns_as_in_float32(
    kind: str, small_prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        old = trajectory.COMMON["train"].model_copy(update={"steps": 16, "precision": precision})
        monkeypatch.setitem(trajectory.COMMON, "train", old)
        work = tmp_path / precision
        trajectory.train(small_prepared, work, kind)
        losses[precision] = [line["loss"] for line in log.read(work / "log.jsonl")]
        folder = checkpoint.latest(work / "checkpoints")
        assert folder is not None
        assert {w.dtype for w in checkpoint.load_weights(folder).values()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
