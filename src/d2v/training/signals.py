"""Signals that announce the end of a process, kept until the run has saved its state."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

# of time limits, pre-emption and `scancel`; Ctrl-C stays immediate
ANNOUNCING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE_S = 60.0  # what the run may take to act; clusters give 30 seconds to some minutes


class Signals(AbstractContextManager["Signals"]):
    """While open, the signals only leave word in `asked`; `deliver` gives them to who had them.

    One that is not delivered within GRACE_S (a long validation), or comes again, is delivered at
    once: what has to happen at the end (submitit's requeueing, say) happens in any case. Only a
    main thread may listen; in another one nothing is ever asked.
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
        """Hand the signal to the handler it was meant for; returns if that one lets us live."""
        self._stop_clock()
        number, self.asked = self.asked, None
        if number is None:
            return
        handler = self.before[number]
        if callable(handler):
            handler(number, None)
            return
        signal.signal(number, handler)  # the system's own: end, or ignore
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
