"""An n-gram model in ARPA format, read and scored as in KenLM: log10, in single precision."""

import ctypes
import math
from collections.abc import Iterator
from pathlib import Path

from d2v.data.ngram import END, START, UNKNOWN, Gram
from d2v.util.errors import UserError

MOST = 30_000_000  # n-grams; they take about 10 GB of memory
NEVER_SEEN = -100.0  # score of an unknown word if the model does not list <unk> (KenLM)


class Arpa:
    """Scores of words given their history, cut to the longest part that the model lists.

    Raises UserError for a file that is not an ARPA model, whose lists are truncated, or that is too
    large to be held in memory here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.grams: dict[Gram, tuple[float, float]] = {}  # log10 probability, log10 back-off
        try:
            with path.open(encoding="utf-8") as file:
                self.order = self._read(file)
        except (ValueError, StopIteration) as error:  # a wrong encoding is a ValueError
            said = str(error) or "it is cut off"
            raise UserError(f"{path}: not a language model that KenLM can read: {said}") from None

    def start(self) -> Gram:
        """The history at the beginning of a sentence."""
        return (START,)

    def score(self, history: Gram, word: str) -> tuple[Gram, float]:
        """The new history, which ends with `word`, and log10 P(word | history)."""
        if (word,) not in self.grams:
            word = UNKNOWN
        skipped = 0
        while (gram := (*history[skipped:], word)) not in self.grams:
            skipped += 1
        prob = self.grams[gram][0]
        for longer in reversed(range(skipped)):
            prob = single(prob + self.grams[history[longer:]][1])
        return gram[-(self.order - 1) :], prob

    def _read(self, lines: Iterator[str]) -> int:
        """Read all lists and return the model's order; raises ValueError for an invalid file."""
        while next(lines).strip() != "\\data\\":
            pass
        counts = []
        while (line := next(lines).strip()).startswith("ngram"):
            counts.append(int(line.partition("=")[2]))
        if len(counts) < 2:
            raise ValueError("an order of at least 2 is needed")
        if sum(counts) > MOST:
            raise UserError(
                f"{self.path}: it has {sum(counts):,} n-grams, more than the {MOST:,} that can be"
                " read without flashlight-text; install with Python 3.11 or 3.12, or use a"
                " pruned model"
            )
        for order, count in enumerate(counts, start=1):
            self._list(lines, line, order, count)
            line = _filled(lines)
        if line != "\\end\\":
            raise ValueError(f"\\end\\ is expected instead of {line!r}")
        for word in (START, END):
            if (word,) not in self.grams:
                raise ValueError(f"no {word} in it")
        self.grams.setdefault((UNKNOWN,), (NEVER_SEEN, 0.0))
        return len(counts)

    def _list(self, lines: Iterator[str], line: str, order: int, count: int) -> None:
        """Read one list of n-grams; `line` is its header, or empty if that is still to come."""
        head = f"\\{order}-grams:"
        if (line or _filled(lines)) != head:
            raise ValueError(f"no {head} where it is expected")
        for _ in range(count):
            line = next(lines)
            fields = line.rstrip("\r\n").replace("\t", " ").split(" ")
            if len(fields) - order not in (1, 2):
                raise ValueError(f"not an n-gram of {order} words: {line.rstrip()!r}")
            prob = single(float(fields[0]))
            backoff = single(float(fields[-1])) if len(fields) - order == 2 else 0.0
            if not prob <= 0 or math.isnan(backoff):
                raise ValueError(f"not a log-probability: {line.rstrip()!r}")
            self.grams[tuple(fields[1 : order + 1])] = prob, backoff


def single(number: float) -> float:
    """The nearest single-precision number."""
    return ctypes.c_float(number).value


def _filled(lines: Iterator[str]) -> str:
    """The next non-empty line, stripped."""
    while not (line := next(lines).strip()):
        pass
    return line
