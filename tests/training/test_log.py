"""The log of a run on a disk that takes a part of it, nothing, or nothing any more."""

import errno
import os
from pathlib import Path

import pytest
from tiny import curve, train

from d2v.training import log
from d2v.util.errors import UserError

LINES = [{"step": step, "loss": step / 7} for step in (1, 2, 3)]


class Disk:
    """os.write of a disk that takes `most` bytes at a time and fails for the first `faults`."""

    def __init__(self, most: int, fault: int = errno.ENOSPC, faults: int = 0) -> None:
        self.most, self.fault, self.faults = most, fault, faults
        self.write = os.write

    def __call__(self, file: int, content: bytes) -> int:
        if self.faults:
            self.faults -= 1
            raise OSError(self.fault, os.strerror(self.fault))
        return self.write(file, content[: self.most])


def written(path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    lines = log.JsonLines(path, 0, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk)
        lines.write(LINES)
    lines.close()
    return log.read(path)


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(tmp_path / "log.jsonl", Disk(7), monkeypatch) == LINES


def test_space_on_a_full_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "FULL_S", 0.5)
    assert written(tmp_path / "log.jsonl", Disk(999, faults=3), monkeypatch) == LINES
    assert capsys.readouterr().out.count("waiting for space") == 1


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_ends_the_run_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    monkeypatch.setattr(log, "FULL_S", 0.2)
    with pytest.raises(UserError, match="the same command") as told:
        written(tmp_path / "log.jsonl", Disk(999, fault, 10**6), monkeypatch)
    assert str(told.value).startswith(f"{tmp_path / 'log.jsonl'}: {os.strerror(fault)}")


def test_a_tracker_on_a_full_disk_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quiet").mkdir()
    train(tmp_path / "quiet")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/tensorboard").write_text("no folder")  # nothing can be written in it
    train(tmp_path / "full")
    assert curve(tmp_path / "full") == curve(tmp_path / "quiet")
    out = capsys.readouterr().out
    assert out.count("warning: TensorBoard failed and is skipped") == 1
    assert "Traceback" not in out


def test_tensorboard_fails_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from d2v.training import tracking

    trackers = tracking.open_all(tmp_path, None, 0)
    with open("/dev/full", "wb", buffering=0) as full:
        trackers[0].writer._writer = full  # type: ignore[attr-defined]
        for _ in range(3):
            tracking.tell(trackers, LINES)
    assert not trackers
    said = capsys.readouterr().out
    assert said.count("warning: tracking by TensorBoard failed and is skipped") == 1
