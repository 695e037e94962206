"""Signals that announce the end of a process, held back until the run has saved its state."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

# sent for time limits, pre-emption and `scancel`; Ctrl-C still acts immediately
ANNOUNCING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE_S = 60.0  # time the run has to act; clusters allow 30 seconds to a few minutes


class Signals(AbstractContextManager["Signals"]):
    """While open, signals are only noted in `asked`; `deliver` passes them to their handlers.

    A signal that is not delivered within GRACE_S (during a long validation, for example), or that
    arrives again, is delivered at once. Whatever has to happen at the end, such as submitit's
    requeueing, thus happens in any case. Only the main thread can receive signals; in any other
    thread `asked` stays None.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}
        self.clock: threading.Timer | None = None

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.getsignal(number) for number in ANNOUNCING}
            self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_clock()
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def deliver(self) -> None:
        """Pass the signal to its original handler; returns if that does not end the process."""
        self._stop_clock()
        number, self.asked = self.asked, None
        if number is None:
            return
        handler = self.before[number]
        if callable(handler):
            handler(number, None)
            return
        signal.signal(number, handler)  # the system's default: end the process, or ignore
        os.kill(os.getpid(), number)
        self._listen()

    def _listen(self) -> None:
        for number in ANNOUNCING:
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = signal.Signals(number)
        if again:
            self.deliver()
            return
        self.clock = threading.Timer(GRACE_S, _repeat(number))
        self.clock.daemon = True
        self.clock.start()

    def _stop_clock(self) -> None:
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None


def _repeat(number: int) -> Callable[[], None]:
    main = threading.main_thread().ident
    assert main is not None
    return lambda: signal.pthread_kill(main, number)
