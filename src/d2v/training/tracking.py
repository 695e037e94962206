"""Trackers that receive a run's log: TensorBoard, and a hook for any other tracker.

D2V_TRACKER=module:name names a function (run, params, step). The main process calls it when a run
starts, or resumes after `step`; it returns an object with `log(line)` and `close()`. Trackers do
not affect results.
"""

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from d2v.util.errors import UserError, spared
from d2v.util.files import remove_folder

HOOK = "D2V_TRACKER"
_CALLBACKS: ContextVar[tuple[Any, ...]] = ContextVar("callbacks", default=())
FLUSH_S = 30.0  # how often TensorBoard gets to see new events


class Tracker(Protocol):
    """Receives every line of the log, with the numbers of one optimiser step."""

    def log(self, line: Mapping[str, Any], /) -> None: ...
    def close(self) -> None: ...


def open_all(work: Path, params: Mapping[str, Any] | None, step: int) -> list[Tracker]:
    """TensorBoard in `<work>/tensorboard`, and the tracker of the hook if one is set.

    Raises UserError if the hook cannot be found.
    """
    trackers: list[Tracker] = []
    with spared("TensorBoard"):
        trackers.append(TensorBoard(work / "tensorboard", step))
    trackers += map(Listener, _CALLBACKS.get())
    if name := os.environ.get(HOOK):
        trackers.append(_hook(name)(work.as_posix(), dict(params or {}), step))
    return trackers


@contextmanager
def listening(callbacks: Sequence[Callable[[Mapping[str, Any]], None]]) -> Iterator[None]:
    """In the block, every run passes the lines of its log to these functions."""
    token = _CALLBACKS.set(tuple(callbacks))
    try:
        yield
    finally:
        _CALLBACKS.reset(token)


class Listener:
    """A function that is called with each line."""

    def __init__(self, callback: Callable[[Mapping[str, Any]], None]) -> None:
        self.log = callback

    def close(self) -> None:
        """There is nothing to close."""


class TensorBoard:
    """Event files of a run; events that a killed attempt wrote after `step` are marked as void.

    Events are written by the caller itself: TensorBoard's writer has a thread, whose errors (a full
    disk) cannot be caught.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # only the record writer, because PyTorch's SummaryWriter imports many times as much
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event, self.summary = event_pb2.Event, summary_pb2.Summary
        if not step:
            remove_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.0f}.{os.uname().nodename}.{os.getpid()}.{step}"
        self.file = (folder / name).open("wb")
        self.writer = RecordWriter(self.file)
        self._add(self.event(wall_time=now, file_version="brain.Event:2"))
        if step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(self.event(wall_time=now, step=step + 1, session_log=start))
        self._flush()

    def log(self, line: Mapping[str, Any]) -> None:
        """Write every number of the line and of its validation."""
        values = [
            self.summary.Value(tag=name, simple_value=value)
            for name, value in numbers(line).items()
        ]
        summary = self.summary(value=values)
        self._add(self.event(wall_time=time.time(), step=line["step"], summary=summary))
        if time.monotonic() > self.flushed + FLUSH_S:
            self._flush()

    def close(self) -> None:
        """Write remaining events and close the file."""
        self.file.close()

    def _add(self, event: Any) -> None:
        self.writer.write(event.SerializeToString())

    def _flush(self) -> None:
        self.flushed = time.monotonic()
        self.file.flush()


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line by name, without the step; validation metrics as validation/<name>."""
    found = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "step"}
    validation = line.get("validation") or {}
    return found | {f"validation/{k}": v for k, v in validation.items() if v is not None}


def tell(trackers: list[Tracker], lines: Sequence[Mapping[str, Any]]) -> None:
    """Pass all lines to all trackers; one that fails is reported, and gets no further lines."""
    for tracker in list(trackers):
        told = False
        with spared(f"tracking by {type(tracker).__name__}"):
            for line in lines:
                tracker.log(line)
            told = True
        if not told:
            trackers.remove(tracker)
            close([tracker])


def close(trackers: Sequence[Tracker]) -> None:
    """Close all trackers; a failure is reported but does not end the run."""
    for tracker in trackers:
        with spared(f"closing {type(tracker).__name__}"):
            tracker.close()


def _hook(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{HOOK}={name}: cannot be found ({error}); give module:function") from None
