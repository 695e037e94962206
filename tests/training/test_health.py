"""What ends a run, and what costs it a step only."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Points, Tiny, curve, equal, train, weights

from d2v import params
from d2v.data.sampler import GlobalBatches, SizedBatches
from d2v.training import checkpoint, log
from d2v.training.health import Trend
from d2v.util.errors import NotFinite, Rebound


class Exploding(Tiny):
    """Its loss, or its gradient alone, is no number in some steps."""

    def __init__(self, culprit: str, *steps: int) -> None:
        super().__init__()
        self.culprit, self.steps, self.done = culprit, steps, 0

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        out = super().forward(batch)
        if self.training and self.done + 1 in self.steps:
            root = torch.sqrt(out["loss"] * 0)  # finite, its gradient is not
            broken = out["loss"] * float("nan")
            out["loss"] = broken if self.culprit == "loss" else out["loss"] + root
        return out

    def after_step(self, step: int) -> dict[str, float]:
        self.done = step
        self.seen = {**getattr(self, "seen", {}), step: self.head.weight.detach().clone()}
        return super().after_step(step)


@pytest.mark.parametrize("culprit", ["loss", "grad_norm"])
def test_a_number_that_is_not_finite_costs_the_step(
    tmp_path: Path, culprit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Exploding(culprit, 14, 16)
    summary = train(tmp_path, task, log_every=20)
    assert torch.equal(task.seen[13], task.seen[14])
    assert not torch.equal(task.seen[14], task.seen[15])
    assert all(value.isfinite().all() for value in weights(tmp_path).values())

    lines = {line["step"]: line for line in log.read(tmp_path / "log.jsonl")}
    keys = GlobalBatches(20, 8, 4, seed=1).keys(13)
    examples = [str(index) for _, index in keys]
    assert {step for step, line in lines.items() if "skipped" in line} == {14, 16}
    assert lines[14]["skipped"] == examples
    assert lines[14][culprit] is None
    said = capsys.readouterr().out
    assert f"step 14: {culprit} is nan, examples {', '.join(examples[:5])} and 3 more" in said
    assert "the step is skipped" in said
    assert summary.logs["loss"] > 0
    assert summary.logs["skipped_steps"] == 2


@pytest.mark.parametrize("culprit", ["loss", "grad_norm"])
def test_five_of_them_in_a_row_end_the_run(tmp_path: Path, culprit: str) -> None:
    with pytest.raises(NotFinite, match=rf"step 18: {culprit} is nan.* 5 steps in a row"):
        train(tmp_path, Exploding(culprit, *range(14, 25)), checkpoint_every=6, log_every=20)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-12"
    lines = log.read(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 19))
    assert all(line[culprit] is None for line in lines[13:])


def test_a_skipped_step_is_skipped_again_after_a_resume(tmp_path: Path) -> None:
    train(tmp_path / "whole", Exploding("loss", 14))

    class Killed(Exploding):
        def after_step(self, step: int) -> dict[str, float]:
            if step == 17:
                raise KeyboardInterrupt
            return super().after_step(step)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", Killed("loss", 14))
    again = Exploding("loss", 14)
    again.done = 10  # the checkpoint it goes on from
    train(tmp_path / "parts", again)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_the_examples_of_a_step_are_those_of_all_processes() -> None:
    for world in (1, 2):
        streams = [iter(GlobalBatches(20, 8, 2, rank, world, seed=3)) for rank in range(world)]
        for step in range(4):
            seen = [key for _ in range(4 // world) for s in streams for key in next(s)]
            assert GlobalBatches(20, 8, 2, seed=3).keys(step) == seen
    p = params.Sized(size=12, micro_batches=4)
    for world in (1, 2, 4):
        sized = [iter(SizedBatches(Points().sizes, p, r, world, seed=3)) for r in range(world)]
        for step in range(4):
            seen = [key for _ in range(4 // world) for s in sized for key in next(s)]
            assert SizedBatches(Points().sizes, p, seed=3).keys(step) == seen


def test_the_running_mean_is_compared_with_its_least() -> None:
    trend = Trend(params.Rebound(factor=2.0, steps=3))
    falling = [9.0, 6.0, 3.0, 1.0, 1.0, None, 1.0]
    assert not any(trend.risen(loss) for loss in falling)
    assert trend.least == pytest.approx(1.0)
    assert [trend.risen(loss) for loss in (2.0, 2.0, 2.0, 2.1)] == [False, False, False, True]


def test_a_loss_that_rises_again_ends_the_run_also_after_a_resume(tmp_path: Path) -> None:
    class Diverging(Tiny):
        """As of step 15 the loss is twenty times what it was."""

        done = 0

        def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
            out = super().forward(batch)
            return {**out, "loss": out["loss"] * (20 if self.done >= 14 else 1)}

        def after_step(self, step: int) -> dict[str, float]:
            self.done = step
            return super().after_step(step)

    rebound = params.Rebound(factor=4.0, steps=4)
    with pytest.raises(Rebound, match=r"than train\.rebound\.factor 4 times its minimum") as told:
        train(tmp_path, Diverging(), rebound=rebound)
    assert told.value.exit_code == 6
    ended = log.read(tmp_path / "log.jsonl")[-1]["step"]
    assert 15 <= ended <= 18

    again = Diverging()
    again.done = 10
    with pytest.raises(Rebound, match=f"step {ended}:"):
        train(tmp_path, again, rebound=rebound)
    again = Diverging()
    again.done = 10
    train(tmp_path, again)  # without it: the same run goes on
    assert log.read(tmp_path / "log.jsonl")[-1]["step"] == 24
