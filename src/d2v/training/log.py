"""Output of a run: one JSON line per step in a file, and what progress shows of a line."""

import errno
import json
import math
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v.util.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_S = 600.0  # how long a run waits for space on a full disk


class JsonLines:
    """Append-only `log.jsonl`; a batch of lines is one write, if the disk takes it as one."""

    def __init__(self, path: Path, after: int, remember: int) -> None:
        """Open `path` and remove lines of steps beyond `after`, and any incomplete last line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.recent: deque[Mapping[str, Any]] = deque(maxlen=remember)  # the newest lines
        self.losses: list[float | None] = []  # losses of earlier steps
        self.skipped = 0  # skipped steps, among all steps
        kept = 0
        with path.open("rb") as file:
            for text in file:
                line = _parse(text)
                if line is None or line["step"] > after:
                    break
                self.recent.append(line)
                self.losses.append(line.get("loss"))
                self.skipped += "skipped" in line
                kept += len(text)
        os.ftruncate(self.file, kept)

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append the lines; numbers that JSON cannot represent (NaN, infinity) become null.

        Waits for space on a full disk. Raises UserError if there is none within `FULL_S` seconds,
        or if the file cannot be written for another reason.
        """
        finite = [_finite(line) for line in lines]
        self._append("".join(json.dumps(line) + "\n" for line in finite).encode())
        self.recent.extend(finite)
        self.skipped += sum("skipped" in line for line in lines)

    def sync(self) -> None:
        """Let the disk have all lines, so that a checkpoint never is newer than the log."""
        with suppress(OSError):  # some network file systems cannot
            os.fsync(self.file)

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)

    def _append(self, rest: bytes) -> None:
        end: float | None = None
        while rest:
            try:
                rest = rest[os.write(self.file, rest) :]
            except OSError as error:
                if error.errno not in FULL:
                    raise UserError(
                        f"{self.path}: {error.strerror}; the run ends here, and the same command"
                        " resumes it from the newest checkpoint"
                    ) from None
                if end is None:
                    end = time.monotonic() + FULL_S
                    print(f"{self.path}: {error.strerror}; waiting for space", flush=True)
                if time.monotonic() > end:
                    raise UserError(
                        f"{self.path}: {error.strerror} for {FULL_S:.0f} s; free space, and run the"
                        " same command again to resume from the newest checkpoint"
                    ) from None
                time.sleep(min(1.0, FULL_S / 10))


class Meter:
    """Metrics of the steps since the last report, kept on the device until they are read."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget the steps and restart the clock."""
        self.rows: list[Tensor] = []
        self.known: list[tuple[int, tuple[str, ...], Mapping[str, float]]] = []
        self.examples = 0
        self.since = time.perf_counter()

    def add(
        self, step: int, measured: Mapping[str, Tensor], known: Mapping[str, float], examples: int
    ) -> None:
        """Add a step: `measured` numbers are on the device, `known` ones on the host.

        `examples` is the number of examples over all processes.
        """
        self.examples += examples
        self.rows.append(torch.stack([value.double() for value in measured.values()]))
        self.known.append((step, tuple(measured), known))

    def read(self) -> list[dict[str, Any]]:
        """Return one line per step, with the rates in examples and steps per second."""
        values = torch.stack(self.rows).tolist()  # the one place that waits for the device
        seconds = time.perf_counter() - self.since
        rates = {
            "examples_per_s": round(self.examples / seconds, 2),
            "steps_per_s": float(f"{len(values) / seconds:.4g}"),
        }
        return [
            {"step": step, **dict(zip(names, row, strict=True)), **known, **rates}
            for (step, names, known), row in zip(self.known, values, strict=True)
        ]


def read(path: Path) -> list[dict[str, Any]]:
    """Read all lines of a log file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def means(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of every number that all lines contain, except the step; null values are ignored."""
    found = {}
    for name in set.intersection(*map(set, lines)) - {"step"}:
        numbers = [line[name] for line in lines if line[name] is not None]
        if numbers and all(isinstance(number, int | float) for number in numbers):
            found[name] = math.fsum(numbers) / len(numbers)
    return {name: found[name] for name in lines[-1] if name in found}


def summary(line: Mapping[str, Any]) -> str:
    """What the progress of a training shows of a line: loss, spread of the targets, and rate."""
    spread = line.get("target_std")
    target = "" if spread is None else f", target std {spread:.3f}"
    return f"loss {line['loss']:.4f}{target}, {line['examples_per_s']:.0f} examples/s"


def _parse(text: bytes) -> dict[str, Any] | None:
    """Parse a line of the log; return None if it is incomplete."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    whole = text.endswith(b"\n") and isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if whole else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
