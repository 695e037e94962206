"""Progress of work that takes a while: a bar on a terminal, lines with the time in a log."""

import re
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE = re.compile(
    r"[-\d]+ [:\d]+  (?P<unit>\w+) (?P<done>\d+)/(?P<total>\d+)  (?P<text>.*?)(  ETA .*)?"
)


def stamped(text: str) -> str:
    """The text behind the local date and time."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}"


class Progress:
    """Progress through `total` items: one bar on a terminal, or stamped lines, or nothing."""

    def __init__(self, total: int, done: int = 0, unit: str = "step", quiet: bool = False) -> None:
        self.total, self.unit, self.quiet = total, unit, quiet
        self.bar: tqdm[Any] | None = None
        if sys.stdout.isatty() and not quiet:
            from tqdm import tqdm as bar

            self.bar = bar(
                initial=done, total=total, unit=unit, file=sys.stdout, dynamic_ncols=True
            )

    def update(self, done: int, text: str, rate: float | None = None) -> None:
        """Show that `done` items are done; `rate` (items per second) gives the ETA of a line."""
        if self.bar is not None:  # the bar shows its rate and the time left itself
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(done - self.bar.n)
            self.bar.refresh()
            return
        left = "" if rate is None else f"  ETA {_left(self.total - done, rate)}"
        self.say(f"{self.unit} {done}/{self.total}  {text}{left}")

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stdout)
        elif not self.quiet:
            print(stamped(text), flush=True)

    def close(self) -> None:
        """Close the bar and leave it on the terminal."""
        if self.bar is not None:
            self.bar.close()


def _left(items: int, rate: float) -> timedelta:
    return timedelta(seconds=round(items / max(rate, 1e-9)))


class Relay:
    """Passes on the log of another process; on a terminal, its progress becomes one bar."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.progress: Progress | None = None

    def show(self, line: str) -> None:
        """Print a line of the log, or move the bar if the line reports progress."""
        found = parse(line) if sys.stdout.isatty() else None
        if found is None:
            text = f"{self.label} | {line}"
            if self.progress is not None and self.progress.bar is not None:
                self.progress.say(text)
            else:
                print(text, flush=True)
            return
        unit, done, total, text = found
        if self.progress is None or self.progress.total != total:
            self.close()
            self.progress = Progress(total, done, unit)
        self.progress.update(done, text)

    def close(self) -> None:
        """Close the bar and leave it on the terminal."""
        if self.progress is not None:
            self.progress.close()


def parse(line: str) -> tuple[str, int, int, str] | None:
    """Unit, items done, total and text of a line that Progress printed; None for another line."""
    found = _LINE.fullmatch(line)
    return found and (found["unit"], int(found["done"]), int(found["total"]), found["text"])
