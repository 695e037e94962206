"""What a run tells: one JSON line a step in a file, and progress on the terminal."""

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm


class JsonLines:
    """Append-only `log.jsonl`; each bundle of lines is one write, so a kill leaves whole lines."""

    def __init__(self, path: Path, after: int, remember: int) -> None:
        """Open `path` and cut off what lies beyond step `after`, or a half-written end."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.recent: deque[Mapping[str, Any]] = deque(maxlen=remember)  # the newest lines
        kept = 0
        with path.open("rb") as file:
            for text in file:
                line = _parse(text)
                if line is None or line["step"] > after:
                    break
                self.recent.append(line)
                kept += len(text)
        os.ftruncate(self.file, kept)

    def write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append the lines; numbers that JSON has no word for become null."""
        finite = [_finite(line) for line in lines]
        os.write(self.file, "".join(json.dumps(line) + "\n" for line in finite).encode())
        self.recent.extend(finite)

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)


class Meter:
    """Metrics of the steps since the last report, left on the device until they are read."""

    def __init__(self, portions: int) -> None:
        """`portions` micro-batches a step, over all processes."""
        self.portions = portions
        self.restart()

    def restart(self) -> None:
        """Forget the steps and start the clock."""
        self.rows: list[Tensor] = []
        self.known: list[tuple[int, tuple[str, ...], Mapping[str, float]]] = []
        self.examples = 0
        self.since = time.perf_counter()

    def add(
        self,
        step: int,
        names: tuple[str, ...],
        totals: Tensor,
        norm: Tensor,
        known: Mapping[str, float],
        examples: int,
    ) -> None:
        """One step: `totals` (len(names),) summed over micro-batches, and what the host knows.

        `examples` is how many all processes had in it.
        """
        self.examples += examples
        self.rows.append(torch.cat([totals, norm[None].to(totals.dtype)]))
        self.known.append((step, names, known))

    def read(self) -> list[dict[str, Any]]:
        """A line a step: loss = total / count, mean over micro-batches of the others."""
        values = torch.stack(self.rows).tolist()  # the one place that waits for the device
        rate = self.examples / (time.perf_counter() - self.since)
        lines = []
        for (step, names, known), (loss, count, *others, norm) in zip(
            self.known, values, strict=True
        ):
            mean = {name: x / self.portions for name, x in zip(names[2:], others, strict=True)}
            lines.append(
                {
                    "step": step,
                    "loss": loss / max(count, 1),
                    **mean,
                    **known,
                    "grad_norm": norm,
                    "examples_per_s": round(rate, 2),
                }
            )
        return lines


def read(path: Path) -> list[dict[str, Any]]:
    """All lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def means(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of every number that all the lines have, but for the step."""
    names = [name for name, value in lines[-1].items() if isinstance(value, int | float)]
    return {
        name: math.fsum(line[name] for line in lines) / len(lines)
        for name in names
        if name != "step" and all(line.get(name) is not None for line in lines)
    }


class Progress:
    """A bar on a terminal; plain lines in a log file; nothing if `quiet`."""

    def __init__(self, start: int, steps: int, batch: float, quiet: bool = False) -> None:
        """`batch` examples a step, on average."""
        self.steps, self.batch, self.quiet = steps, batch, quiet
        self.bar: tqdm[Any] | None = None
        if sys.stdout.isatty() and not quiet:
            self.bar = tqdm(initial=start, total=steps, unit="step", file=sys.stdout)

    def update(self, line: Mapping[str, Any]) -> None:
        """Show the newest line of the log."""
        step, loss, rate = line["step"], line["loss"], line["examples_per_s"]
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4f}, {rate:.0f} examples/s", refresh=False)
            self.bar.update(step - self.bar.n)
            return
        left = timedelta(seconds=round((self.steps - step) * self.batch / max(rate, 1e-9)))
        self.say(f"step {step}/{self.steps}  loss {loss:.4f}  {rate:.0f} examples/s  ETA {left}")

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stdout)
        elif not self.quiet:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


def _parse(text: bytes) -> dict[str, Any] | None:
    """A whole line of the log, or None."""
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
