"""Other places that get the lines of a log."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Tiny, train

from d2v.training import log
from d2v.util.errors import UserError


class Dying(Tiny):
    def after_step(self, step: int) -> dict[str, float]:
        if step == 17:
            raise KeyboardInterrupt
        return super().after_step(step)


def test_tensorboard_has_every_step_once_also_after_a_resume(tmp_path: Path) -> None:
    options: Any = {"validate": lambda task, step: {"score": step / 2}, "validate_every": 12}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Dying(), **options)
    train(tmp_path, Tiny(), **options)
    lines = log.read(tmp_path / "log.jsonl")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == list(range(1, 25))
    assert [event.value for event in losses] == pytest.approx([x["loss"] for x in lines], rel=1e-6)
    assert [(e.step, e.value) for e in events.Scalars("validation/score")] == [(12, 6), (24, 12)]
    assert "step" not in events.Tags()["scalars"]


seen: list[Any] = []


class Remembering:
    """A tracker as someone would attach one."""

    def __init__(self, run: str, params: dict[str, Any], step: int) -> None:
        seen.append(("open", run, params, step))

    def log(self, line: dict[str, Any]) -> None:
        seen.append(line["step"])

    def close(self) -> None:
        seen.append("close")


def test_a_tracker_is_attached_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.clear()
    monkeypatch.setenv("D2V_TRACKER", "test_tracking:Remembering")
    train(tmp_path, steps=6, params={"a": 1})
    assert seen == [("open", tmp_path.as_posix(), {"a": 1}, 0), *range(1, 7), "close"]


@pytest.mark.parametrize("name", ["nothing", "no.such:thing", "json:nothing", ":"])
def test_a_tracker_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("D2V_TRACKER", name)
    with pytest.raises(UserError, match=f"D2V_TRACKER={name}: cannot be found"):
        train(tmp_path, steps=2)
